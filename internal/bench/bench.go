// Package bench measures a kith node and its yardsticks on one machine, in
// turn and in one run, and makes a table of ratios of it.
//
// Nodes and yardsticks are child processes of the same binary, so that their
// garbage collection and processor time do not mix with those of the load
// generator, which is this process. Children listen on loopback, keep their
// data in a folder of the run, which is removed at its end, and stop when
// their standard input is closed: none outlives the run.
//
// What is compared is the work of the same requests by the same generator:
// raw connections with requests made beforehand, in which only digits are
// changed. Times are the wall clock's; the processor time of the measured
// process is given beside them, because a shared machine blurs the first much
// more than the second. It writes nothing outside of Config.Dir.
package bench

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"kith/proto"
)

// Config is one run.
type Config struct {
	// Self is how this binary is started as a child: its path and the words of
	// the command whose subcommands are "node" and "yardstick".
	Self []string
	// Dir is where a folder for the run is made. Default: the system's.
	Dir string
	// Only names the measurements to make. Empty: all.
	Only []string
	// Time is how long each sample takes. Default 3 s.
	Time time.Duration
	// Rounds is how many samples each side gives; the medians count. Default 3.
	Rounds int
	// Quick makes the big populations a quarter, and the rates beside backfills
	// and exits.
	Quick bool
	// Profile, if set, is the file name, to which the measurement's name and a
	// number are added, of the node's processor profiles.
	Profile string
	// Progress is told what is done at the moment.
	Progress io.Writer
}

// Bounds of a run.
const (
	timeMax   = time.Minute
	roundsMax = 25
	workMax   = time.Hour // of one measurement
)

// Validate fills in defaults and reports the first thing that is wrong.
func (c *Config) Validate() error {
	if c.Time == 0 {
		c.Time = 3 * time.Second
	}
	if c.Rounds == 0 {
		c.Rounds = 3
	}
	if c.Progress == nil {
		c.Progress = io.Discard
	}
	switch {
	case len(c.Self) == 0:
		return proto.Errorf(proto.CodeInvalid, "the benchmark does not know how to start a node")
	case c.Time < 10*time.Millisecond || c.Time > timeMax:
		return proto.Errorf(proto.CodeInvalid, "a sample of %s: use 10ms to %s", c.Time, timeMax)
	case c.Rounds < 1 || c.Rounds > roundsMax:
		return proto.Errorf(proto.CodeInvalid, "%d rounds: use 1 to %d", c.Rounds, roundsMax)
	}
	for _, name := range c.Only {
		if !slices.Contains(Names(), name) {
			return proto.Errorf(proto.CodeInvalid, "there is no measurement %q: use %s", name, strings.Join(Names(), ", "))
		}
	}
	return nil
}

// measurement is one entry of the table.
type measurement struct {
	name string
	run  func(*session, context.Context) ([]Result, error)
}

func measurements() []measurement {
	return []measurement{
		{"ingest", (*session).ingest},
		{"nats", (*session).ingestNATS},
		{"posts", (*session).posts},
		{"bodies", (*session).bodies},
		{"pixel", (*session).pixel},
		{"openrtb", (*session).openRTB},
		{"visible", (*session).visible},
		{"lookup", (*session).lookup},
		{"batch", (*session).batch},
		{"busy", (*session).busy},
		{"segments", (*session).segments},
		{"audiences", (*session).audiences},
		{"links", (*session).links},
		{"optouts", (*session).optOuts},
		{"flood", (*session).flood},
		{"verdicts", (*session).verdicts},
		{"actors", (*session).actors},
		{"memory", (*session).memory},
		{"cold", (*session).cold},
		{"backfill", (*session).backfill},
		{"exits", (*session).exits},
		{"cluster", (*session).cluster},
		{"copy", (*session).copying},
		{"start", (*session).starting},
	}
}

// Names are the measurements that Config.Only may name, in their order.
func Names() []string {
	var names []string
	for _, m := range measurements() {
		names = append(names, m.name)
	}
	return names
}

// session is a run under way.
type session struct {
	Config
	dir      string
	name     string // of the measurement
	made     int    // folders
	profiles int
}

// Run measures and gives the report. What was measured before an error is in
// the report too.
func Run(ctx context.Context, c Config) (Report, error) {
	if err := c.Validate(); err != nil {
		return Report{}, err
	}
	dir, err := os.MkdirTemp(c.Dir, "kith-bench-")
	if err != nil {
		return Report{}, proto.Errorf(proto.CodeInvalid, "cannot make a folder for the run; name another with --dir: %w", err)
	}
	defer os.RemoveAll(dir)
	s := &session{Config: c, dir: dir}
	report := newReport(c)
	for _, m := range measurements() {
		if len(c.Only) > 0 && !slices.Contains(c.Only, m.name) {
			continue
		}
		found, err := s.measure(ctx, m)
		report.Results = append(report.Results, found...)
		if err != nil {
			return report, fmt.Errorf("%s: %w", m.name, err)
		}
	}
	report.LoadAfter = loadAverage()
	return report, nil
}

func (s *session) measure(ctx context.Context, m measurement) ([]Result, error) {
	ctx, cancel := context.WithTimeout(ctx, workMax)
	defer cancel()
	s.name = m.name
	start := time.Now()
	results, err := m.run(s, ctx)
	for i := range results {
		results[i].Name = m.name
	}
	s.say("done in %s", time.Since(start).Round(time.Second))
	return results, err
}

// say tells what is done at the moment.
func (s *session) say(format string, args ...any) {
	fmt.Fprintf(s.Progress, "%-8s  %s\n", s.name, fmt.Sprintf(format, args...))
}

// folder is a new empty folder of the run.
func (s *session) folder(name string) (string, error) {
	s.made++
	dir := filepath.Join(s.dir, fmt.Sprintf("%02d-%s", s.made, name))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", proto.Errorf(proto.CodeInvalid, "cannot make a folder for the run: %w", err)
	}
	return dir, nil
}

// sampler makes one sample.
type sampler func(context.Context) (sample, error)

// rounds takes one sample of each sampler in turn, Rounds times, and gives
// each one's.
func (s *session) rounds(ctx context.Context, samplers ...sampler) ([]samples, error) {
	lists := make([]samples, len(samplers))
	for round := range s.Rounds {
		s.say("round %d of %d", round+1, s.Rounds)
		for i, take := range samplers {
			x, err := take(ctx)
			if err != nil {
				return nil, err
			}
			lists[i] = append(lists[i], x)
		}
	}
	return lists, nil
}
