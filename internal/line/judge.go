package line

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// window is how many buckets a cut is looked for in: a second.
const window = 2

// Neighbours of a window are those that begin so many buckets before and after it.
var neighbours = []int{4, 6, 8, 10}

// fewestReached is how many have to reach an age for what is usual there to be known.
const fewestReached = 20

// sums are the counts of some rounds.
type sums struct {
	parked  int          // how many may reach any age yet
	reached []uint64     // how many reached an age
	left    []departures // how many left at it
}

// judge finds the lowest cut in what was counted, as the package's documentation has it.
// few is whether requests come from few addresses, parked how many are still parked that are
// to count. Nil is none.
func judge(all []*round, few bool, parked int) *Cut {
	if len(all) < fewestRounds {
		return nil
	}
	lasted := all[len(all)-1].over.Sub(all[0].began)
	total := sum(all, parked)
	for at := bucketOf(leastAge); at+window < len(total.left); at++ { // in the last bucket is whatever is older
		// Only where somebody left at all do the rounds have to be looked at one by one.
		raw := total.leftIn(at)
		if raw.sum() <= 5 || !total.isCut(at, few, &raw) {
			continue
		}
		others, again := without(all, at)
		if !again {
			continue
		}
		rest := sum(others, parked)
		raw = rest.leftIn(at)
		if !rest.isCut(at, few, &raw) {
			continue
		}
		if age := time.Duration(at) * bucket; few && float64(total.count(at))*age.Seconds() < severalAtOnce*lasted.Seconds() {
			continue
		}
		// A window that begins before the cut has it too.
		if total.count(at+1) > total.count(at) {
			at++
		}
		share := float64(total.count(at)) / float64(total.reached[at])
		if first := total.left[at]; first.sum() < total.count(at)/4 {
			at++
		}
		return &Cut{Age: time.Duration(at) * bucket, Share: min(share, 1)}
	}
	return nil
}

// without is all rounds but the two in which most left in the window. It reports whether
// somebody left in it in at least half of all rounds.
func without(all []*round, at int) (others []*round, again bool) {
	in := func(r *round) (n uint32) {
		for i := at; i < at+window; i++ {
			n += r.left[i].sum()
		}
		return n
	}
	others = slices.Clone(all)
	slices.SortStableFunc(others, func(a, b *round) int { return cmp.Compare(in(a), in(b)) })
	return others[:len(others)-2], in(others[len(others)/2]) > 0
}

func sum(all []*round, parked int) *sums {
	n := len(all[0].ended)
	s := &sums{parked: parked, reached: make([]uint64, n+1), left: make([]departures, n)}
	for _, r := range all {
		for i := range r.ended {
			s.reached[i] += uint64(r.ended[i].Load())
			for part, of := range r.left[i] {
				s.left[i][part] += of
			}
		}
	}
	for i := n - 1; i >= 0; i-- {
		s.reached[i] += s.reached[i+1]
	}
	return s
}

// leftIn is who left in the window that begins at a bucket.
func (s *sums) leftIn(at int) (d departures) {
	for i := at; i < min(at+window, len(s.left)); i++ {
		for part, of := range s.left[i] {
			d[part] += of
		}
	}
	return d
}

func (s *sums) count(at int) uint32 {
	d := s.leftIn(at)
	return d.sum()
}

// isCut reports whether so many left in the window that it is neither usual nor chance.
func (s *sums) isCut(at int, few bool, d *departures) bool {
	reached, left, share := float64(s.reached[at]), float64(d.sum()), float64(leastShareOfFew)
	if !few {
		parts := *d
		slices.Sort(parts[:])
		left -= float64(parts[addresses-1] + parts[addresses-2])
		share = leastShare
	}
	usual := max(s.usual(at, -1), s.usual(at, +1))
	chance := usual * reached
	return reached > 0 && left >= share*(reached+float64(s.parked)) && left >= timesNeighbours*chance && left > 5+5*math.Sqrt(chance)
}

// usual is the share that leaves within a window's time on one side of the window: that
// of all neighbours but the one in which it is largest.
func (s *sums) usual(at, side int) float64 {
	type rate struct{ left, reached float64 }
	var rates []rate
	for _, off := range neighbours {
		i := at + side*off
		if i < 0 || i+window > len(s.left) || s.reached[i] < fewestReached {
			continue
		}
		rates = append(rates, rate{float64(s.count(i)), float64(s.reached[i])})
	}
	if len(rates) > 1 {
		slices.SortFunc(rates, func(a, b rate) int {
			return cmp.Compare(a.left*b.reached, b.left*a.reached)
		})
		rates = rates[:len(rates)-1]
	}
	var all rate
	for _, r := range rates {
		all.left += r.left
		all.reached += r.reached
	}
	if all.reached == 0 {
		return 0
	}
	return all.left / all.reached
}
