// The article's programs in Go: `go-starve SCENARIO PARAMS` prints one JSON line.
package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"runtime"
	"runtime/metrics"
	"runtime/pprof"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

type params struct {
	Procs       int     `json:"procs"`
	Work        float64 `json:"work"`
	Short       int     `json:"short"`
	Sleep       float64 `json:"sleep"`
	LookAfter   float64 `json:"look_after"`
	Hold        float64 `json:"hold"`
	Holders     int     `json:"holders"`
	Tasks       int     `json:"tasks"`
	Seconds     float64 `json:"seconds"`
	Tick        float64 `json:"tick"`
	Interval    float64 `json:"interval"`
	Block       float64 `json:"block"`
	Turns       int     `json:"turns"`
	Rest        float64 `json:"rest"`
	Sleepers    int     `json:"sleepers"`
	Timer       float64 `json:"timer"`
	Alive       int     `json:"alive"`
	Connections int     `json:"connections"`
	Burst       int     `json:"burst"`
	Trials      int     `json:"trials"`
	Pause       float64 `json:"pause"`
	Ring        int     `json:"ring"`
	Client      []string `json:"client"`
}

// The microseconds of work that stand for the loops of the Python programs.
const (
	taskWork  = 1000
	stormWork = 30
	ringWork  = 15
)

// record is what is told of a run; waits in nanoseconds by kind.
type record struct {
	Waits      map[string][]int64 `json:"waits"`
	Figures    map[string]float64 `json:"figures"`
	Started    int64              `json:"started"`
	Ended      int64              `json:"ended"`
	Seconds    float64            `json:"seconds"`
	CPUSeconds float64            `json:"cpu_seconds"`
	Threads    int                `json:"threads"`
	Scheduler  *histogram         `json:"scheduler"`
}

type histogram struct {
	Bounds []int64  `json:"bounds"`
	Counts []uint64 `json:"counts"`
}

type lab struct {
	mu             sync.Mutex
	waits          map[string][]int64
	figures        map[string]float64
	started, ended atomic.Int64
}

func (l *lab) waited(kind string, since time.Time) {
	wait := time.Since(since).Nanoseconds()
	l.mu.Lock()
	l.waits[kind] = append(l.waits[kind], wait)
	l.mu.Unlock()
}

func (l *lab) figure(name string, value float64) {
	l.mu.Lock()
	l.figures[name] = value
	l.mu.Unlock()
}

// run starts a counted goroutine in a group.
func (l *lab) run(group *sync.WaitGroup, fn func()) {
	l.started.Add(1)
	group.Go(func() {
		defer l.ended.Add(1)
		fn()
	})
}

// starting is run, and notes how long it took to the first instruction.
func (l *lab) starting(group *sync.WaitGroup, fn func()) {
	since := time.Now()
	l.run(group, func() {
		l.waited("start", since)
		fn()
	})
}

func (l *lab) sleep(d time.Duration, kind string) {
	due := time.Now().Add(d)
	time.Sleep(d)
	l.waited(kind, due)
}

var scenarios = map[string]func(*lab, params){
	"sleeper":  sleeper,
	"locks":    locks,
	"hogs":     hogs,
	"blocking": blocking,
	"timers":   timers,
	"storm":    storm,
	"order":    order,
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: go-starve SCENARIO PARAMS")
		os.Exit(2)
	}
	if os.Args[1] == "about" {
		answer(map[string]any{"runtime": runtime.Version()})
		return
	}
	var p params
	if err := json.Unmarshal([]byte(os.Args[2]), &p); err != nil {
		fmt.Fprintln(os.Stderr, "go-starve: PARAMS:", err)
		os.Exit(2)
	}
	scenario, known := scenarios[os.Args[1]]
	if !known {
		answer(map[string]any{"skipped": "has no such thing"})
		return
	}
	runtime.GOMAXPROCS(p.Procs)
	calibrate()
	l := &lab{waits: map[string][]int64{}, figures: map[string]float64{}}
	begin, cpu := time.Now(), cpuSeconds()
	scenario(l, p)
	answer(record{
		Waits: l.waits, Figures: l.figures,
		Started: l.started.Load(), Ended: l.ended.Load(),
		Seconds: time.Since(begin).Seconds(), CPUSeconds: cpuSeconds() - cpu,
		Threads:   pprof.Lookup("threadcreate").Count(),
		Scheduler: schedLatencies(),
	})
}

func answer(what any) {
	line, err := json.Marshal(what)
	if err != nil {
		panic(err)
	}
	fmt.Println(string(line))
}

func cpuSeconds() float64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err)
	}
	return float64(usage.Utime.Nano()+usage.Stime.Nano()) / 1e9
}

// schedLatencies reads the runtime's own histogram of runnable to running.
func schedLatencies() *histogram {
	sample := []metrics.Sample{{Name: "/sched/latencies:seconds"}}
	metrics.Read(sample)
	if sample[0].Value.Kind() != metrics.KindFloat64Histogram {
		return nil
	}
	found := sample[0].Value.Float64Histogram()
	h := &histogram{Counts: found.Counts}
	for _, bound := range found.Buckets[:len(found.Counts)] {
		h.Bounds = append(h.Bounds, int64(math.Max(0, bound)*1e9))
	}
	return h
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

var sink atomic.Int64

var loopsPerMicrosecond int

func spin(loops int) {
	x := 1
	for range loops {
		x = (x*5 + 1) & 0xFFFF
	}
	sink.Store(int64(x))
}

func calibrate() {
	best := time.Hour
	for range 5 {
		begin := time.Now()
		spin(1_000_000)
		best = min(best, time.Since(begin))
	}
	loopsPerMicrosecond = max(1, int(1e9/float64(best.Nanoseconds())))
}

func work(microseconds int) { spin(microseconds * loopsPerMicrosecond) }

func hogUntil(until time.Time) {
	for time.Now().Before(until) {
		work(50)
	}
}

// every calls fn at each interval from a thread that needs no other goroutine.
func every(d time.Duration, until time.Time, fn func()) *sync.WaitGroup {
	var group sync.WaitGroup
	group.Go(func() {
		runtime.LockOSThread()
		for due := time.Now(); due.Before(until); due = due.Add(d) {
			pause := syscall.NsecToTimespec(max(0, time.Until(due).Nanoseconds()))
			_ = syscall.Nanosleep(&pause, nil)
			fn()
		}
	})
	return &group
}
