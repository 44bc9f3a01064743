package integration_test

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"

	longpoll "github.com/caddy-longpoll/caddy-longpoll"
	"github.com/caddy-longpoll/caddy-longpoll/internal/ops"
)

// What the dashboard and the alert rules ask for exists, under that name, with
// those labels and label values.
func TestDashboards(t *testing.T) {
	h := newHandler(t, new(longpoll.Handler))
	h.seen.Wakers = []ops.Source{new(source).as("redis")}
	families := gathered(t)
	name := regexp.MustCompile(`caddy_long_poll_[a-z_]+`)
	selector := regexp.MustCompile(`(caddy_long_poll_[a-z_]+)(?:\{([^}]*)\})?`)
	matcher := regexp.MustCompile(`([a-z_]+)(=~|=)"([^"]*)"`)
	used := make(map[string]bool)
	for file, minimum := range map[string]int{"dashboards/long_poll.json": 15, "dashboards/alerts.yml": 5} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		names := name.FindAllString(string(text), -1)
		if len(names) < minimum {
			t.Errorf("%s: got %d names; want %d and more", file, len(names), minimum)
		}
		for _, n := range names {
			if family(families, n) == nil {
				t.Errorf("%s: there is no metric %s", file, n)
			}
		}
		for _, m := range selector.FindAllStringSubmatch(strings.ReplaceAll(string(text), `\"`, `"`), -1) {
			f := family(families, m[1])
			if f == nil {
				continue
			}
			used[f.GetName()] = true
			for _, l := range matcher.FindAllStringSubmatch(m[2], -1) {
				if l[1] == "instance" {
					continue // the scraper adds it
				}
				for _, value := range strings.Split(l[3], "|") {
					if !hasLabel(f, l[1], value) {
						t.Errorf("%s: %s never has %s=%q", file, m[1], l[1], value)
					}
				}
			}
		}
	}
	for n := range families {
		if !used[n] {
			t.Errorf("%s is on no dashboard", n)
		}
	}
}

// family is the metric that a series belongs to.
func family(families map[string]*dto.MetricFamily, series string) *dto.MetricFamily {
	if f := families[series]; f != nil {
		return f
	}
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		if base, ok := strings.CutSuffix(series, suffix); ok && families[base].GetType() == dto.MetricType_HISTOGRAM {
			return families[base]
		}
	}
	return nil
}

func hasLabel(f *dto.MetricFamily, name, value string) bool {
	return slices.ContainsFunc(f.GetMetric(), func(m *dto.Metric) bool {
		return slices.ContainsFunc(m.GetLabel(), func(l *dto.LabelPair) bool { return l.GetName() == name && l.GetValue() == value })
	})
}

// Grafana takes the dashboard: panels that lie side by side, each with a
// description and an expression whose brackets close.
func TestDashboardForm(t *testing.T) {
	text, err := os.ReadFile("dashboards/long_poll.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Title, UID string
		Panels     []struct {
			ID                       int
			Type, Title, Description string
			GridPos                  struct{ X, Y, W, H int }
			Targets                  []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	taken, ids := make(map[[2]int]string), make(map[int]bool)
	for _, p := range dashboard.Panels {
		if p.Type != "row" && (p.Description == "" || len(p.Targets) == 0) || p.Title == "" || ids[p.ID] {
			t.Errorf("panel %d %q lacks a title, a description, an expression or an id of its own", p.ID, p.Title)
		}
		ids[p.ID] = true
		for _, target := range p.Targets {
			for _, pair := range []string{"()", "{}", "[]"} {
				if strings.Count(target.Expr, pair[:1]) != strings.Count(target.Expr, pair[1:]) {
					t.Errorf("panel %q: %s is not closed in %s", p.Title, pair, target.Expr)
				}
			}
		}
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				at := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				if other, ok := taken[at]; ok || at[0] >= 24 {
					t.Fatalf("panel %q lies on %q or beyond the edge", p.Title, other)
				}
				taken[at] = p.Title
			}
		}
	}
	if dashboard.Title == "" || dashboard.UID == "" || len(slices.Collect(maps.Keys(ids))) < 10 {
		t.Errorf("got %+v", dashboard)
	}
}

// Prometheus takes the alert rules, and they fire when they should: dashboards/alerts_test.yml
// says when, and has each of them.
func TestAlerts(t *testing.T) {
	rules, tests := read(t, "dashboards/alerts.yml"), read(t, "dashboards/alerts_test.yml")
	alerts := regexp.MustCompile(`alert: (\w+)`).FindAllStringSubmatch(rules, -1)
	if len(alerts) < 5 {
		t.Errorf("got %d alerts; want 5 and more", len(alerts))
	}
	for _, alert := range alerts {
		if !strings.Contains(tests, "alertname: "+alert[1]+"\n") {
			t.Errorf("%s is not tested", alert[1])
		}
	}
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is not installed: the alert rules are not tried")
	}
	cmd := exec.Command(promtool, "test", "rules", "alerts_test.yml")
	cmd.Dir = "dashboards"
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}
