package main

import (
	"runtime"
	"sync"
	"time"
)

func spawn(p params) values {
	var batches []time.Duration
	for range p.Batches {
		start := time.Now()
		var group sync.WaitGroup
		group.Add(p.Batch)
		for range p.Batch {
			go group.Done()
		}
		group.Wait()
		batches = append(batches, time.Since(start))
	}
	return perItem(batches, p.Batch)
}

func gosched(p params) values {
	var batches []time.Duration
	for range p.Batches {
		start := time.Now()
		var group sync.WaitGroup
		for range p.Ring {
			group.Go(func() {
				for range p.Turns {
					runtime.Gosched()
				}
			})
		}
		group.Wait()
		batches = append(batches, time.Since(start))
	}
	return perItem(batches, p.Turns*p.Ring)
}

func pingpong(p params) values {
	forced := p.Mode == "forced"
	var batches []time.Duration
	for range p.Batches {
		there, back := make(chan int, 1), make(chan int, 1)
		var group sync.WaitGroup
		group.Go(func() {
			if forced {
				runtime.LockOSThread()
			}
			for range p.Trips {
				back <- <-there
			}
		})
		group.Go(func() {
			if forced {
				runtime.LockOSThread()
			}
			start := time.Now()
			for i := range p.Trips {
				there <- i
				<-back
			}
			batches = append(batches, time.Since(start))
		})
		group.Wait()
	}
	return perItem(batches, p.Trips)
}

func countPrimes(limit int) int {
	found := 0
	for n := 2; n < limit; n++ {
		d := 2
		for ; d*d <= n; d++ {
			if n%d == 0 {
				break
			}
		}
		if d*d > n {
			found++
		}
	}
	return found
}

// Compiled code is some thirty times as fast: more of it, so that there is
// something to measure. The seconds told are those of one repeat.
const repeats = 20

func cpu(p params) values {
	var mu sync.Mutex
	total := 0
	start := time.Now()
	var group sync.WaitGroup
	for range p.Tasks {
		group.Go(func() {
			found := 0
			for range repeats {
				found += countPrimes(p.Limit)
			}
			mu.Lock()
			total += found
			mu.Unlock()
		})
	}
	group.Wait()
	if total == 0 {
		panic("no primes found")
	}
	return values{"seconds": time.Since(start).Seconds() / repeats}
}
