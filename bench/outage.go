package main

import (
	"fmt"
	"sync/atomic"
	"time"
)

// outage has clients ask every second, willing to wait for as long, while all is well,
// and then while the backend fails. By then every other one has lost its version, as
// one that was started anew, and what it gets is an error. They all are as impatient as
// before, whatever Retry-After says.
func outage(t trial) (values, error) {
	s, err := t.begin()
	defer s.stop()
	if err != nil {
		return nil, err
	}
	first, err := s.warm()
	if err != nil {
		return nil, err
	}
	first.wait = "1"
	var told, answered atomic.Int64
	var fails atomic.Bool
	var failed atomic.Pointer[answer]
	waiting := make([]atomic.Bool, t.churners)
	c, err := s.connect(t.churners, func(i int, a answer) {
		waiting[i].Store(false)
		answered.Add(1)
		switch {
		case a.status >= 500 && fails.Load():
			told.Add(1)
		case a.status != 200 && a.status != 304:
			failed.Store(&a)
		}
	})
	if err != nil {
		return nil, err
	}
	defer c.close()
	stop := everySecond(t.churners, func(i int) {
		if waiting[i].Swap(true) {
			return
		}
		p := first
		p.path = fmt.Sprint("/r/", i%t.at)
		if fails.Load() && i/t.at%2 == 1 {
			p.tag, p.since = "", ""
		}
		_ = c.ask(i, p)
	})
	defer stop()
	time.Sleep(time.Second) // all have asked

	v := make(values)
	asked, began := s.asked(), time.Now()
	time.Sleep(2 * t.idle)
	v[goodAsks] = (s.asked() - asked) / float64(t.at) / time.Since(began).Seconds() // interval is 1 s

	fails.Store(true)
	if _, err := call("POST", "http://"+s.behind.addr+"/fail", ""); err != nil {
		return nil, err
	}
	stopProfiles := s.profiles("outage")
	answered.Store(0)
	told.Store(0)
	asked, began = s.asked(), time.Now()
	cpu := s.cpu()
	time.Sleep(3 * t.idle)
	took := time.Since(began)
	v[outageAsks] = (s.asked() - asked) / float64(t.at*pauses(took))
	v[refusals] = float64(told.Load()) / took.Seconds()
	v[outageCPU] = us(s.cpu()-cpu) / float64(max(1, answered.Load()))
	stopProfiles()
	if f := failed.Load(); f != nil {
		return nil, fmt.Errorf("failing behind %s: bad answer %+v", t.subject, *f)
	}
	return v, nil
}

// pauses is how many begin in an outage of that length at most: the first is an
// interval, and each is half as long again as the one before.
func pauses(length time.Duration) (n int) {
	for pause := time.Second; length > 0; pause += pause / 2 {
		length -= pause
		n++
	}
	return n
}
