// The peer programs in Go: `go-peer CASE PARAMS` prints one JSON line.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"sort"
	"sync"
	"time"
)

type params struct {
	Procs       int     `json:"procs"`
	Mode        string  `json:"mode"`
	Batch       int     `json:"batch"`
	Batches     int     `json:"batches"`
	Ring        int     `json:"ring"`
	Turns       int     `json:"turns"`
	Trips       int     `json:"trips"`
	Tasks       int     `json:"tasks"`
	Limit       int     `json:"limit"`
	Count       int     `json:"count"`
	Seconds     float64 `json:"seconds"`
	Interval    float64 `json:"interval"`
	Block       float64 `json:"block"`
	Connections int     `json:"connections"`
	Size        int     `json:"size"`
}

type values map[string]any

var cases = map[string]func(params) values{
	"about":    about,
	"spawn":    spawn,
	"gosched":  gosched,
	"pingpong": pingpong,
	"cpu":      cpu,
	"echo":     echo,
	"parked":   parked,
	"million":  million,
	"ticker":   ticker,
	"blockers": blockers,
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: go-peer CASE PARAMS")
		os.Exit(2)
	}
	var p params
	if err := json.Unmarshal([]byte(os.Args[2]), &p); err != nil {
		fmt.Fprintln(os.Stderr, "go-peer: PARAMS:", err)
		os.Exit(2)
	}
	if p.Procs > 0 {
		runtime.GOMAXPROCS(p.Procs)
	}
	measure, known := cases[os.Args[1]]
	if !known {
		answer(map[string]any{"skipped": "has no such thing"})
		return
	}
	answer(map[string]any{"values": measure(p)})
}

func answer(what map[string]any) {
	line, err := json.Marshal(what)
	if err != nil {
		panic(err)
	}
	fmt.Println(string(line))
}

func about(params) values {
	return values{"runtime": runtime.Version()}
}

// perItem tells the microseconds for one of the items of several batches:
// median, mean and those of the first batch.
func perItem(batches []time.Duration, items int) values {
	each := make([]float64, len(batches))
	sum := 0.0
	for i, took := range batches {
		each[i] = float64(took.Nanoseconds()) / 1e3 / float64(items)
		sum += each[i]
	}
	first := each[0]
	sort.Float64s(each)
	median := (each[len(each)/2] + each[(len(each)-1)/2]) / 2
	return values{"us": median, "mean_us": sum / float64(len(each)), "first_us": first}
}

// lateness collects how late things happened, from many goroutines.
type lateness struct {
	mu   sync.Mutex
	late []time.Duration
}

func (l *lateness) add(d time.Duration) {
	l.mu.Lock()
	l.late = append(l.late, d)
	l.mu.Unlock()
}

func (l *lateness) values() values {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.late) == 0 {
		panic("nothing happened, so there is no lateness to tell")
	}
	sort.Slice(l.late, func(i, j int) bool { return l.late[i] < l.late[j] })
	at := func(thousandths int) float64 {
		rank := (thousandths*len(l.late) + 999) / 1000
		return float64(l.late[max(rank, 1)-1].Nanoseconds()) / 1e6
	}
	return values{"p50_ms": at(500), "p99_ms": at(990), "max_ms": at(1000), "count": len(l.late)}
}
