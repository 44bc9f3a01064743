package main

import (
	"fmt"
	"html"
	"slices"
	"strings"
	"time"
)

// style is that of the plot. It is an image to those who show it, so that it has no
// script, and a background of its own, for a page may be dark where the reader's system
// is not.
const style = `
	text { font-family: system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; font-size: 14px; fill: #1f2328 }
	.page { fill: #ffffff } .title { font-size: 18px; font-weight: 600 } .note { font-size: 12px; fill: #59636e }
	.axis { stroke: #d1d9e0 } .sent { fill: #0969da } .big { font-size: 22px; font-weight: 600; fill: #0969da }
	.front { stroke: #8250df } .front-text { fill: #8250df; font-weight: 600 }
	.change { stroke: #1a7f37 } .change-text { fill: #1a7f37; font-weight: 600 }
	.outage { fill: #ffebe9 } .outage-text { fill: #cf222e; font-weight: 600 }
	.mark { stroke-width: 1.5; stroke-dasharray: 5 3 }
	@media (prefers-color-scheme: dark) {
		text { fill: #f0f6fc } .page { fill: #0d1117 } .note { fill: #9198a1 }
		.axis { stroke: #3d444d } .sent { fill: #1f6feb } .big { fill: #4493f8 }
		.front { stroke: #ab7df8 } .front-text { fill: #ab7df8 }
		.change { stroke: #3fb950 } .change-text { fill: #3fb950 }
		.outage { fill: #3c1618 } .outage-text { fill: #f85149 }
	}
`

const (
	width, height = 860, 500
	left, right   = 62, 836 // of both panels
)

// panel is a rectangle in which each second is a bar.
type panel struct {
	top, bottom float64
	most        int // what is at its top; what is more is cut off
}

func (p panel) y(n float64) float64 {
	return p.bottom - (p.bottom-p.top)*min(n, float64(p.most))/float64(p.most)
}

// x is where a second begins.
func (s *story) x(second int) float64 {
	return left + float64(right-left)*float64(second)/float64(len(s.PerSecond))
}

// draw draws the story: above to scale, below the same, enlarged until single requests
// are to be seen.
func (s *story) draw() []byte {
	var b strings.Builder
	add := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	before, after := mean(s.PerSecond[:s.InFront]), s.quiet()
	title := fmt.Sprintf("What a backend is asked by %s clients that poll it", thousands(s.Clients))
	add(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-labelledby="title desc">`, width, height, width, height)
	add(`<title id="title">%s</title>`, title)
	add(`<desc id="desc">%s requests per second before long_poll is put in front, %s after. A change reaches all clients within %.1f seconds; an outage shows none of them an error.</desc>`, perSecond(before), perSecond(after), s.Took)
	add("<style>%s</style>", style)
	add(`<rect class="page" width="%d" height="%d"/>`, width, height)
	add(`<text class="title" x="%d" y="30">%s</text>`, left-40, title)
	add(`<text class="note" x="%d" y="50">requests per second at the backend; each client asks once a second, or as soon as it is answered if that takes longer</text>`, left-40)

	scale := panel{top: 84, bottom: 272, most: ceiling(slices.Max(s.PerSecond))}
	fine := panel{top: 336, bottom: 430, most: 4}
	add(`<rect class="outage" x="%.1f" y="%.1f" width="%.1f" height="%.1f"/>`, s.x(s.Down), scale.top-10, s.x(s.Up)-s.x(s.Down), fine.bottom-scale.top+10)
	add(`<text class="note" x="%d" y="%.1f">the same, enlarged %s times: each step is one request</text>`, left, fine.top-14, thousands(scale.most/fine.most))
	for _, p := range []panel{scale, fine} {
		for i := range 5 {
			n := p.most * i / 4
			add(`<line class="axis" x1="%d" y1="%.1f" x2="%d" y2="%.1f"/>`, left, p.y(float64(n)), right, p.y(float64(n)))
			add(`<text class="note" x="%d" y="%.1f" text-anchor="end">%s</text>`, left-8, p.y(float64(n))+4, thousands(n))
		}
		for second, n := range s.PerSecond {
			if n > 0 {
				add(`<rect class="sent" x="%.1f" y="%.1f" width="%.1f" height="%.1f"/>`, s.x(second)+0.5, p.y(float64(n)), s.x(1)-s.x(0)-1, p.bottom-p.y(float64(n)))
			}
		}
	}
	every := 10
	if len(s.PerSecond) < 30 {
		every = 1
	}
	for second := 0; second <= len(s.PerSecond); second += every {
		add(`<text class="note" x="%.1f" y="%.1f" text-anchor="middle">%d s</text>`, s.x(second), fine.bottom+18, second)
	}

	mark := func(second int, class string, lines ...string) {
		x := s.x(second)
		add(`<line class="mark %s" x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f"/>`, class, x, scale.top-10, x, fine.bottom)
		for i, line := range lines {
			kind := class + "-text"
			if i > 0 {
				kind = "note"
			}
			add(`<text class="%s" x="%.1f" y="%d">%s</text>`, kind, x+7, 92+18*i, line)
		}
	}
	mark(s.InFront, "front", "long_poll in front", "by a reload of Caddy")
	mark(s.Change, "change", "a change", fmt.Sprintf("all %s have it", thousands(s.Clients)), fmt.Sprintf("after %.1f s, by", s.Took), count(s.By, "request"))
	add(`<text class="outage-text" x="%.1f" y="92">backend down</text>`, s.x(s.Down)+7)
	add(`<text class="note" x="%.1f" y="110">%s shown to clients</text>`, s.x(s.Down)+7, count(s.Errors, "error"))
	middle := (s.x(s.InFront) + s.x(s.Change)) / 2
	add(`<text class="big" x="%.1f" y="234" text-anchor="middle">%s</text>`, middle, perSecond(after))
	add(`<text class="note" x="%.1f" y="254" text-anchor="middle">per second</text>`, middle)
	add(`<text class="big" x="%.1f" y="178" text-anchor="middle" style="fill: #ffffff">%s</text>`, (s.x(0)+s.x(s.InFront))/2, perSecond(before))
	add(`<text class="note" x="%.1f" y="198" text-anchor="middle" style="fill: #ffffff">per second</text>`, (s.x(0)+s.x(s.InFront))/2)
	add(`<text class="note" x="%d" y="%d">go run . plot in bench/, %s, %s</text>`, left-40, height-14, html.EscapeString(s.Machine), s.When.Format(time.DateOnly))
	add("</svg>")
	return []byte(b.String())
}

// quiet is how many requests a second are left with long_poll, while nothing happens: the
// first second after the reload has those that were on their way.
func (s *story) quiet() float64 {
	return mean(s.PerSecond[min(s.InFront+1, s.Change-1):s.Change])
}

func mean(all []int) float64 {
	var sum int
	for _, n := range all {
		sum += n
	}
	return float64(sum) / float64(max(1, len(all)))
}

// perSecond is a number per second, with no more digits than can be told.
func perSecond(x float64) string {
	if x < 9.95 {
		return strings.TrimSuffix(fmt.Sprintf("%.1f", x), ".0")
	}
	return thousands(int(x + 0.5))
}

// ceiling is a round number for the top of an axis with four steps.
func ceiling(n int) int {
	for step := 1; ; step *= 10 {
		for _, steps := range []int{4, 8, 12, 20} {
			if n <= steps*step {
				return steps * step
			}
		}
	}
}

// thousands is a number with a comma before each three digits.
func thousands(n int) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// count is a number of things.
func count(n int, thing string) string {
	switch n {
	case 0:
		return "no " + thing
	case 1:
		return "one " + thing
	}
	return thousands(n) + " " + thing + "s"
}
