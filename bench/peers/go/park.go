package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// statusKiB reads one figure of this process's memory.
func statusKiB(key string) float64 {
	file, err := os.Open("/proc/self/status")
	if err != nil {
		panic(err)
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), key+":") {
			var kib float64
			fmt.Sscan(strings.TrimPrefix(lines.Text(), key+":"), &kib)
			return kib
		}
	}
	panic("no " + key)
}

func seconds(s float64) time.Duration {
	return time.Duration(s * float64(time.Second))
}

func parked(p params) values {
	var arrived atomic.Int64
	before := statusKiB("VmRSS")
	start := time.Now()
	for range p.Count {
		go func() {
			arrived.Add(1)
			time.Sleep(time.Hour)
		}()
	}
	for arrived.Load() < int64(p.Count) {
		time.Sleep(time.Millisecond)
	}
	took := time.Since(start)
	return values{
		"start_us": float64(took.Nanoseconds()) / 1e3 / float64(p.Count),
		"rss_kb":   (statusKiB("VmRSS") - before) / float64(p.Count),
	}
}

func million(p params) values {
	start := time.Now()
	var group sync.WaitGroup
	for range p.Count {
		group.Go(func() { time.Sleep(seconds(p.Seconds)) })
	}
	group.Wait()
	return values{"seconds": time.Since(start).Seconds(), "peak_gb": statusKiB("VmHWM") / (1 << 20)}
}

var sink atomic.Int64

func hog(until time.Time) {
	x := 0
	for time.Now().Before(until) {
		for range 100000 {
			x = (x*5 + 1) & 0xFFFF
		}
	}
	sink.Store(int64(x))
}

func ticker(p params) values {
	var late lateness
	until := time.Now().Add(seconds(p.Seconds))
	interval := seconds(p.Interval)
	var group sync.WaitGroup
	group.Go(func() {
		for asked := time.Now(); asked.Before(until); asked = time.Now() {
			time.Sleep(interval)
			late.add(time.Since(asked) - interval)
		}
	})
	for range p.Procs {
		group.Go(func() { hog(until) })
	}
	group.Wait()
	return late.values()
}

func blockers(p params) values {
	var late lateness
	begin := time.Now()
	until := begin.Add(seconds(p.Seconds))
	var group sync.WaitGroup
	for range p.Procs {
		group.Go(func() {
			block := syscall.NsecToTimespec(seconds(p.Block).Nanoseconds())
			for time.Now().Before(until) {
				// A system call that blocks, not the runtime's own sleep.
				_ = syscall.Nanosleep(&block, nil)
			}
		})
	}
	for due := begin; due.Before(until); due = due.Add(seconds(p.Interval)) {
		time.Sleep(time.Until(due))
		arrived := time.Now()
		group.Go(func() { late.add(time.Since(arrived)) })
	}
	group.Wait()
	return late.values()
}
