package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"time"

	"kith/proto"
)

// answerMark begins the lines by which a child answers, among others.
const answerMark = "= "

// stopMax is how long a child may take to stop.
const stopMax = 30 * time.Second

// child is a process that this one started and stops.
type child struct {
	name string
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Scanner
	said *lastWords
}

// lastWords keeps the beginning of what a child says on standard error.
type lastWords struct {
	mu  sync.Mutex
	buf []byte
}

// Write implements io.Writer.
func (l *lastWords) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf = append(l.buf, b[:min(len(b), 4096-len(l.buf))]...)
	return len(b), nil
}

func (l *lastWords) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.TrimSpace(string(l.buf))
}

// start starts this binary again. ctx ends the child at the latest.
func (s *session) start(ctx context.Context, args ...string) (*child, error) {
	return startChild(ctx, args[0], append(s.Self[1:len(s.Self):len(s.Self)], args...), s.Self[0])
}

func startChild(ctx context.Context, name string, args []string, program string) (*child, error) {
	c := &child{name: name, cmd: exec.CommandContext(ctx, program, args...), said: &lastWords{}}
	in, err := c.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.in, c.out, c.cmd.Stderr = in, bufio.NewScanner(out), c.said
	c.cmd.Cancel = in.Close
	c.cmd.WaitDelay = stopMax
	if err := c.cmd.Start(); err != nil {
		return nil, proto.Errorf(proto.CodeInvalid, "cannot start %s: %w", program, err)
	}
	return c, nil
}

// until reads lines until found says so.
func (c *child) until(found func(line string) bool) error {
	for c.out.Scan() {
		if found(c.out.Text()) {
			return nil
		}
	}
	return proto.Errorf(proto.CodeUnavailable, "the %s process ended early; it said: %s", c.name, c.said)
}

// answer is the next answer.
func (c *child) answer() (text string, err error) {
	err = c.until(func(line string) (ok bool) {
		text, ok = strings.CutPrefix(line, answerMark)
		return ok
	})
	if problem, bad := strings.CutPrefix(text, "error "); bad {
		return "", proto.Errorf(proto.CodeInternal, "the %s process failed: %s", c.name, problem)
	}
	return text, err
}

// ask sends a line and gives its answer.
func (c *child) ask(format string, args ...any) (string, error) {
	if _, err := fmt.Fprintf(c.in, format+"\n", args...); err != nil {
		return "", proto.Errorf(proto.CodeUnavailable, "the %s process is gone; it said: %s", c.name, c.said)
	}
	return c.answer()
}

// close stops the child and waits for it.
func (c *child) close() error {
	late := time.AfterFunc(stopMax, func() { _ = c.cmd.Process.Kill() })
	defer late.Stop()
	err := c.in.Close()
	for c.out.Scan() { // Wait wants that everything was read
	}
	if e := c.cmd.Wait(); e != nil {
		err = proto.Errorf(proto.CodeInternal, "the %s process failed: %w; it said: %s", c.name, e, c.said)
	}
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

// Obey is a child's side: it takes lines from in and writes answers to out
// until in ends. do answers what is not about profiles; it may be nil.
func Obey(in io.Reader, out io.Writer, do func(line string) (string, error)) {
	var p profile
	defer p.stop()
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		word, rest, _ := strings.Cut(lines.Text(), " ")
		var answer string
		var err error
		switch {
		case word == "profile":
			err = p.start(rest)
		case word == "stop":
			err = p.stop()
		case word == "alive":
			answer = strconv.FormatUint(aliveBytes(), 10)
		case word == "heap":
			err = writeHeap(rest)
		case do != nil:
			answer, err = do(lines.Text())
		default:
			err = proto.Errorf(proto.CodeInvalid, "%q is not known", word)
		}
		if err != nil {
			answer = "error " + strings.ReplaceAll(err.Error(), "\n", " ")
		}
		fmt.Fprintf(out, "%s%s\n", answerMark, answer)
	}
}

// profile is a processor profile under way.
type profile struct{ f *os.File }

func (p *profile) start(name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return errors.Join(err, f.Close())
	}
	p.f = f
	return nil
}

func (p *profile) stop() error {
	if p.f == nil {
		return nil
	}
	pprof.StopCPUProfile()
	err := p.f.Close()
	p.f = nil
	return err
}

// writeHeap writes what is alive after a collection.
func writeHeap(name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	runtime.GC()
	return errors.Join(pprof.Lookup("heap").WriteTo(f, 0), f.Close())
}

// aliveBytes are the heap's after a collection.
func aliveBytes() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// usage is what the system says of a process.
type usage struct {
	cpu         float64 // seconds
	rss, mapped int64   // bytes in memory; those of them that are pages of files
}

// ticksPerSecond is Linux's USER_HZ, which is 100 wherever Go runs.
const ticksPerSecond = 100

// usageOf reads /proc; elsewhere all is zero, which means not known.
func usageOf(pid int) (u usage) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return u
	}
	_, after, ok := strings.Cut(string(stat), ") ")
	f := strings.Fields(after)
	if !ok || len(f) < 13 {
		return u
	}
	user, _ := strconv.ParseFloat(f[11], 64)
	system, _ := strconv.ParseFloat(f[12], 64)
	u.cpu = (user + system) / ticksPerSecond
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return u
	}
	u.rss, u.mapped = kilobytes(string(status), "VmRSS:"), kilobytes(string(status), "RssFile:")
	return u
}

// kilobytes is a line of a status file such as "VmRSS:  1234 kB", in bytes.
func kilobytes(status, name string) int64 {
	_, rest, _ := strings.Cut(status, "\n"+name)
	f := strings.Fields(rest)
	if len(f) == 0 {
		return 0
	}
	n, _ := strconv.ParseInt(f[0], 10, 64)
	return n << 10
}

func (c *child) usage() usage { return usageOf(c.cmd.Process.Pid) }

// ownCPU is this process's processor time.
func ownCPU() float64 { return usageOf(os.Getpid()).cpu }
