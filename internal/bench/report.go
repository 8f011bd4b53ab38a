package bench

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// sample is one run of a load.
type sample struct {
	units     int     // done
	refused   int     // answered with an error that asks to come again
	seconds   float64 // until the last unit was done
	cpu       float64 // seconds of the processor that the measured process took
	latencies latencies
	also      map[string]float64 // further values, of which medians are given too
}

func (x sample) rate() float64 { return float64(x.units) / x.seconds }

// cost is the processor's microseconds for a unit, 0 if it is not known.
func (x sample) cost() float64 { return x.cpu * 1e6 / float64(max(x.units, 1)) }

type samples []sample

func (l samples) median(of func(sample) float64) float64 {
	var v []float64
	for _, x := range l {
		v = append(v, of(x))
	}
	return median(v)
}

func (l samples) rate() float64 { return l.median(sample.rate) }
func (l samples) cost() float64 { return l.median(sample.cost) }
func (l samples) refused() (n int) {
	for _, x := range l {
		n += x.refused
	}
	return n
}

func (l samples) quantile(q float64) float64 {
	return l.median(func(x sample) float64 { return x.latencies.quantile(q) })
}

// pooled is a quantile of all samples' latencies together, for where a sample
// has too few for its own.
func (l samples) pooled(q float64) float64 {
	var all latencies
	for _, x := range l {
		all = append(all, x.latencies...)
	}
	return all.quantile(q)
}

// spread is the least and the greatest rate.
func (l samples) spread() string {
	var v []float64
	for _, x := range l {
		v = append(v, x.rate())
	}
	return fmt.Sprintf("%s to %s", figure(slices.Min(v)), figure(slices.Max(v)))
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	slices.Sort(v)
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

// latencies are the milliseconds of requests.
type latencies []float64

// quantile is the least value that at least the share q does not exceed. It
// sorts.
func (l latencies) quantile(q float64) float64 {
	if len(l) == 0 {
		return 0
	}
	slices.Sort(l)
	return l[max(int(math.Ceil(q*float64(len(l))))-1, 0)]
}

// Goal is something that a result should reach.
type Goal struct {
	Text string `json:"text"`
	Met  bool   `json:"met"`
}

// Result is one row of the table.
type Result struct {
	Name      string             `json:"name"`
	Work      string             `json:"work"`
	Unit      string             `json:"unit"`
	Ours      float64            `json:"ours"`
	Yardstick string             `json:"yardstick,omitempty"`
	Beside    float64            `json:"beside,omitempty"`
	Ratio     float64            `json:"ratio,omitempty"`
	Goals     []Goal             `json:"goals,omitempty"`
	Figures   map[string]float64 `json:"figures,omitempty"`
	Notes     []string           `json:"notes,omitempty"`
}

func (r *Result) note(format string, args ...any) {
	r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
}

func (r *Result) set(name string, v float64) {
	if r.Figures == nil {
		r.Figures = map[string]float64{}
	}
	r.Figures[name] = v
}

// against puts a yardstick beside the result.
func (r *Result) against(name string, v float64) {
	r.Yardstick, r.Beside = name, v
	if v > 0 {
		r.Ratio = r.Ours / v
	}
}

func (r *Result) atLeast(what string, v, least float64) {
	r.Goals = append(r.Goals, Goal{fmt.Sprintf("%s >= %s", what, figure(least)), v >= least})
}

func (r *Result) atMost(what string, v, most float64) {
	r.Goals = append(r.Goals, Goal{fmt.Sprintf("%s <= %s", what, figure(most)), v > 0 && v <= most})
}

// refusals notes what was refused for overload, which a rate must not hide.
func (r *Result) refusals(l samples) {
	if n := l.refused(); n > 0 {
		r.note("%d requests were refused as overloaded and sent again", n)
	}
}

// Report is a run's results.
type Report struct {
	Date       time.Time `json:"date"`
	Cores      int       `json:"cores"`
	Go         string    `json:"go"`
	Platform   string    `json:"platform"`
	Seconds    float64   `json:"seconds"` // of a sample
	Rounds     int       `json:"rounds"`
	LoadBefore string    `json:"load_before,omitempty"`
	LoadAfter  string    `json:"load_after,omitempty"`
	Traffic    string    `json:"traffic"`
	Results    []Result  `json:"results"`
}

func newReport(c Config) Report {
	return Report{
		Date: time.Now().UTC().Truncate(time.Second), Cores: runtime.NumCPU(), Go: runtime.Version(),
		Platform: runtime.GOOS + "/" + runtime.GOARCH, Seconds: c.Time.Seconds(), Rounds: c.Rounds,
		LoadBefore: loadAverage(), Traffic: trafficText(),
	}
}

// loadAverage tells how busy the machine is, where it says so.
func loadAverage() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return ""
	}
	return strings.Join(strings.Fields(string(b))[:3], " ")
}

// Write prints the table and what belongs to it.
func (r Report) Write(w io.Writer) error {
	var out bytes.Buffer
	fmt.Fprintf(&out, "%s, %d cores, %s, %s; medians of %d samples of %gs, ours and yardstick in turn\n",
		r.Date.Format(time.RFC3339), r.Cores, r.Go, r.Platform, r.Rounds, r.Seconds)
	if r.LoadBefore != "" {
		fmt.Fprintf(&out, "load average before: %s; after: %s (the load generator is on this machine too)\n", r.LoadBefore, r.LoadAfter)
	}
	fmt.Fprintf(&out, "%s\n\n", r.Traffic)
	t := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "work\tours\tyardstick\tratio\tgoal\tmet")
	for _, x := range r.Results {
		fmt.Fprintln(t, x.row())
	}
	t.Flush()
	for _, x := range r.Results {
		if len(x.Notes) > 0 {
			fmt.Fprintf(&out, "\n%s:\n", x.Work)
		}
		for _, n := range x.Notes {
			fmt.Fprintf(&out, "  %s\n", n)
		}
	}
	_, err := w.Write(out.Bytes())
	return err
}

func (r Result) row() string {
	yardstick, ratio, met := "-", "-", "-"
	if r.Yardstick != "" {
		yardstick = r.Yardstick + " " + figure(r.Beside)
	}
	if r.Ratio > 0 {
		ratio = fmt.Sprintf("%.2f", r.Ratio)
	}
	var goals []string
	for i, g := range r.Goals {
		goals = append(goals, g.Text)
		if i == 0 {
			met = "yes"
		}
		if !g.Met {
			met = "NO"
		}
	}
	goal := strings.Join(goals, ", ")
	if goal == "" {
		goal = "-"
	}
	return strings.Join([]string{r.Work, figure(r.Ours) + " " + r.Unit, yardstick, ratio, goal, met}, "\t")
}

// figure writes a number with three digits that mean something.
func figure(v float64) string {
	switch {
	case v >= 999_500:
		return fmt.Sprintf("%.3gM", v/1e6)
	case v >= 9_995:
		return fmt.Sprintf("%.0fk", v/1e3)
	case v >= 1_000:
		return fmt.Sprintf("%.2fk", v/1e3)
	}
	return fmt.Sprintf("%.3g", v)
}
