package main

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"io"
	"math"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sort"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

func sleeper(l *lab, p params) {
	var group sync.WaitGroup
	var ended atomic.Int64
	begin := time.Now()
	l.run(&group, func() { hogUntil(begin.Add(seconds(p.Work))) })
	look := time.AfterFunc(seconds(p.Work*p.LookAfter), func() {
		l.figure("left", float64(int64(p.Short)-ended.Load()))
	})
	for range p.Short {
		l.starting(&group, func() {
			l.sleep(seconds(p.Sleep), "wake")
			ended.Add(1)
		})
	}
	group.Wait()
	look.Stop()
}

func locks(l *lab, p params) {
	var group sync.WaitGroup
	var lock sync.Mutex
	var released time.Time
	var done atomic.Int64
	begin := time.Now()
	for range p.Holders {
		l.run(&group, func() {
			lock.Lock()
			if !released.IsZero() {
				l.waited("lock", released)
			}
			hogUntil(time.Now().Add(seconds(p.Hold)))
			released = time.Now()
			lock.Unlock()
		})
	}
	for range p.Tasks {
		l.starting(&group, func() {
			work(taskWork)
			if done.Add(1) == int64(p.Tasks) {
				l.figure("short_done_s", time.Since(begin).Seconds())
			}
		})
	}
	group.Wait()
}

func hogs(l *lab, p params) {
	var group sync.WaitGroup
	until := time.Now().Add(seconds(p.Seconds))
	for range p.Procs {
		l.run(&group, func() { hogUntil(until) })
	}
	l.starting(&group, func() {
		for time.Now().Before(until) {
			l.sleep(seconds(p.Tick), "tick")
		}
	})
	every(seconds(p.Interval), until, func() { l.starting(&group, func() {}) }).Wait()
	group.Wait()
}

// blocking: a raw read(2) of a pipe blocks its thread as undeclared calls do in Python. Hashing
// doesn't in Go: it is Go code and can be preempted.
func blocking(l *lab, p params) {
	var group sync.WaitGroup
	var stop atomic.Bool
	var kind atomic.Value
	kind.Store("wake")
	for range p.Sleepers * p.Procs {
		l.run(&group, func() {
			for !stop.Load() {
				due := time.Now().Add(seconds(p.Sleep))
				time.Sleep(seconds(p.Sleep))
				l.waited(kind.Load().(string), due)
			}
		})
	}
	until := time.Now().Add(seconds(2 * float64(p.Turns) * (p.Block + p.Rest)))
	var short sync.WaitGroup
	feeder := every(seconds(p.Interval), until, func() { l.starting(&short, func() {}) })
	for turn := range 2 * p.Turns {
		if turn == p.Turns {
			kind.Store("wake again")
		}
		var blockers sync.WaitGroup
		for range p.Procs {
			l.run(&blockers, func() {
				if turn%2 == 0 {
					readSlowPipe(seconds(p.Block))
				} else {
					hashFor(seconds(p.Block))
				}
			})
		}
		blockers.Wait()
		time.Sleep(seconds(p.Rest))
	}
	feeder.Wait()
	stop.Store(true)
	short.Wait()
	group.Wait()
}

func readSlowPipe(after time.Duration) {
	var ends [2]int
	if err := syscall.Pipe(ends[:]); err != nil {
		panic(err)
	}
	time.AfterFunc(after, func() { _, _ = syscall.Write(ends[1], []byte("x")) })
	_, _ = syscall.Read(ends[0], make([]byte, 1))
	_ = syscall.Close(ends[0])
	_ = syscall.Close(ends[1])
}

func hashFor(d time.Duration) {
	block := make([]byte, 1<<16)
	for begin := time.Now(); time.Since(begin) < d; {
		sum := sha256.Sum256(block)
		copy(block, sum[:])
	}
}

func timers(l *lab, p params) {
	var kept []*time.Timer
	make_ := func(count int) float64 {
		begin := time.Now()
		for range count {
			kept = append(kept, time.NewTimer(seconds(p.Timer)))
		}
		return time.Since(begin).Seconds() / float64(count)
	}
	phase := func(kind string, flood bool) {
		var group sync.WaitGroup
		until := time.Now().Add(seconds(p.Seconds))
		l.run(&group, func() {
			for time.Now().Before(until) {
				l.sleep(seconds(p.Tick), kind)
			}
		})
		if flood {
			for time.Now().Before(until) {
				time.Sleep(time.Millisecond)
				make_(1)
			}
		}
		group.Wait()
	}
	phase("tick before", false)
	l.figure("timer_made_s_first", make_(1000))
	make_(max(0, p.Alive-2000))
	l.figure("timer_made_s_last", make_(1000))
	phase("tick", true)
	make_(9 * p.Alive)
	phase("tick x10", false)
	// Since Go 1.23 a timer that nobody can reach any more is collected.
	runtime.KeepAlive(kept)
}

func storm(l *lab, p params) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	port := strconv.Itoa(listener.Addr().(*net.TCPAddr).Port)
	client := exec.Command(p.Client[0], append(append([]string{}, p.Client[1:]...), port,
		strconv.Itoa(p.Connections), strconv.FormatFloat(p.Interval, 'f', -1, 64))...)
	client.Stderr = os.Stderr
	// It stops when its standard input is closed.
	input, err := client.StdinPipe()
	if err != nil {
		panic(err)
	}
	output, err := client.StdoutPipe()
	if err == nil {
		err = client.Start()
	}
	if err != nil {
		panic(err)
	}
	var serving sync.WaitGroup
	// By when a message was sent, so that one the storm held up counts as such.
	var stormBegin, stormEnd atomic.Int64
	stormBegin.Store(math.MaxInt64)
	stormEnd.Store(math.MaxInt64)
	for range p.Connections {
		connection, err := listener.Accept()
		if err != nil {
			panic(err)
		}
		l.run(&serving, func() {
			defer connection.Close()
			message := make([]byte, 16)
			for {
				if _, err := io.ReadFull(connection, message); err != nil {
					return
				}
				sent, kind := int64(binary.LittleEndian.Uint64(message)), "echo storm"
				if sent < stormBegin.Load() {
					kind = "echo quiet"
				} else if sent >= stormEnd.Load() {
					kind = "echo after"
				}
				l.waited(kind, time.Unix(0, sent))
				if _, err := connection.Write(message); err != nil {
					return
				}
			}
		})
	}
	time.Sleep(seconds(p.Seconds))
	stormBegin.Store(time.Now().UnixNano())
	var storming sync.WaitGroup
	l.run(&storming, func() {
		begin, bursts := time.Now(), 0
		for time.Since(begin) < seconds(p.Seconds) {
			var burst sync.WaitGroup
			for range p.Burst {
				burst.Go(func() { work(stormWork) })
			}
			burst.Wait()
			bursts++
		}
		l.figure("storm_g_per_s", float64(bursts*p.Burst)/time.Since(begin).Seconds())
	})
	storming.Wait()
	stormEnd.Store(time.Now().UnixNano())
	_ = input.Close()
	var seen map[string]float64
	if err := json.NewDecoder(output).Decode(&seen); err != nil {
		panic(err)
	}
	_ = client.Wait()
	for name, value := range seen {
		l.figure(name, value)
	}
	serving.Wait()
}

// order: see the scenario of that name; numbers of the ring and of what overflows are Go's.
const (
	overflow = 400
	moved    = 128
	half     = 32
)

func order(l *lab, p params) {
	globalFirst, fromHead, runnextLast, overflows, heads := 0, 0.0, 0, 0, 0
	for until := time.Now().Add(3 * time.Second); min(overflows, heads) < p.Trials && time.Now().Before(until); {
		if seen := orderTrial(l, overflow); seen != nil {
			overflows++
			if seen[0] < moved {
				globalFirst++
			}
		}
		if seen := orderTrial(l, 2*half); seen != nil {
			heads++
			head := 0
			for _, number := range seen[:half] {
				if number < half {
					head++
				}
			}
			fromHead += float64(head) / half
			if seen[len(seen)-1] == 2*half-1 {
				runnextLast++
			}
		}
	}
	var before []int
	for range max(3, p.Trials/4) {
		before = append(before, degraded(l, p))
	}
	sort.Ints(before)
	if overflows == 0 || heads == 0 {
		answer(map[string]any{"skipped": "the two P's never ran at the same time: the machine is too busy"})
		os.Exit(0)
	}
	l.figure("trials", float64(overflows))
	l.figure("global_first", float64(globalFirst)/float64(overflows))
	l.figure("from_head", fromHead/float64(heads))
	l.figure("runnext_last", float64(runnextLast)/float64(heads))
	l.figure("before_global", float64(before[len(before)/2])/float64(p.Ring))
}

func orderTrial(l *lab, count int) []int {
	time.Sleep(2 * time.Millisecond)
	seen := make([]int32, count)
	var group sync.WaitGroup
	var at atomic.Int64
	var there, leave atomic.Bool
	begin := time.Now()
	l.run(&group, func() {
		there.Store(true)
		spinUntil(leave.Load, 50*time.Millisecond)
	})
	if !spinUntil(there.Load, 5*time.Millisecond) {
		leave.Store(true)
		group.Wait()
		return nil
	}
	for number := range count {
		l.starting(&group, func() {
			// The place first: atomically the next one.
			atomic.StoreInt32(&seen[at.Add(1)-1], int32(number))
		})
	}
	// Who was preempted leaves by another way: to the global queue first.
	inTime := time.Since(begin) < 8*time.Millisecond
	leave.Store(true)
	spinUntil(func() bool { return at.Load() >= int64(count) }, 5*time.Millisecond)
	ran := int(at.Load())
	group.Wait()
	if !inTime || ran < half {
		return nil
	}
	numbers := make([]int, ran)
	for i := range ran {
		numbers[i] = int(atomic.LoadInt32(&seen[i]))
	}
	return numbers
}

func spinUntil(ready func() bool, limit time.Duration) bool {
	for begin := time.Now(); !ready(); {
		if time.Since(begin) > limit {
			return false
		}
	}
	return true
}

// degraded: a goroutine that calls Gosched goes to the global queue.
func degraded(l *lab, p params) int {
	time.Sleep(seconds(p.Pause))
	var group sync.WaitGroup
	var done atomic.Int64
	for range p.Ring {
		l.starting(&group, func() {
			work(ringWork)
			done.Add(1)
		})
	}
	runtime.Gosched()
	seen := int(done.Load())
	group.Wait()
	return seen
}
