package bench

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"time"

	"kith/proto"
)

//go:embed postgres.sql
var postgresSchema []byte

// postgres is a PostgreSQL server of the run's own, synced, on a socket in a
// folder beside the run's: it may have to run as somebody else, who cannot
// look into that.
type postgres struct {
	cmd  *exec.Cmd
	dir  string
	psql string
	said *lastWords
}

// postgresConns are the connections of small transactions: more were slower.
var postgresConns = 2 * runtime.NumCPU()

const (
	postgresUser    = "bench"
	postgresConnMax = 100
)

// startPostgres starts one if the programs are there and want to; else it says
// why not and gives nil.
func (s *session) startPostgres(ctx context.Context) (*postgres, error) {
	bin, err := postgresBin()
	if err != nil {
		s.say("measured without PostgreSQL: %v", err)
		return nil, nil
	}
	psql, err := exec.LookPath("psql")
	if err != nil {
		psql = filepath.Join(bin, "psql")
	}
	dir, err := os.MkdirTemp(s.Dir, "kith-pg-")
	if err != nil {
		return nil, proto.Errorf(proto.CodeInvalid, "cannot make a folder for PostgreSQL: %w", err)
	}
	p := &postgres{dir: dir, psql: psql, said: &lastWords{}}
	if err := p.start(ctx, bin); err != nil {
		s.say("measured without PostgreSQL: %v", err)
		return nil, p.close()
	}
	return p, nil
}

// postgresBin is where initdb and postgres lie: on the PATH, or where
// distributions hide them, the newest.
func postgresBin() (string, error) {
	if program, err := exec.LookPath("initdb"); err == nil {
		if program, err = filepath.EvalSymlinks(program); err == nil {
			return filepath.Dir(program), nil
		}
	}
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(found) == 0 {
		return "", proto.Errorf(proto.CodeNotFound, "initdb is neither on the PATH nor in /usr/lib/postgresql")
	}
	version := func(path string) float64 {
		v, _ := strconv.ParseFloat(filepath.Base(filepath.Dir(filepath.Dir(path))), 64)
		return v
	}
	return filepath.Dir(slices.MaxFunc(found, func(a, b string) int { return int(100*version(a) - 100*version(b)) })), nil
}

// demoted lets cmd run as somebody without rights if this process is root's:
// PostgreSQL refuses to run as root.
func demoted(cmd *exec.Cmd, dir string) error {
	if os.Getuid() != 0 {
		return nil
	}
	who, err := user.Lookup("postgres")
	if err != nil {
		if who, err = user.Lookup("nobody"); err != nil {
			return err
		}
	}
	uid, err1 := strconv.ParseUint(who.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(who.Gid, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	return os.Chown(dir, int(uid), int(gid))
}

func (p *postgres) start(ctx context.Context, bin string) error {
	data := filepath.Join(p.dir, "data")
	initdb := exec.CommandContext(ctx, filepath.Join(bin, "initdb"), "-D", data, "-U", postgresUser, "-A", "trust", "--no-locale", "-E", "UTF8")
	if err := demoted(initdb, p.dir); err != nil {
		return err
	}
	if out, err := initdb.CombinedOutput(); err != nil {
		return proto.Errorf(proto.CodeUnavailable, "initdb: %w: %s", err, bytes.TrimSpace(out))
	}
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "postgres"), "-D", data, "-k", p.dir,
		"-c", "listen_addresses=", "-c", "fsync=on", "-c", "synchronous_commit=on", "-c", "max_connections="+strconv.Itoa(postgresConnMax),
		"-c", "shared_buffers=512MB", "-c", "max_wal_size=4GB", "-c", "jit=off")
	cmd.Stderr, cmd.WaitDelay = p.said, stopMax
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	if err := demoted(cmd, p.dir); err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	p.cmd = cmd
	return p.define(ctx)
}

// define makes tables and functions, once the server is there.
func (p *postgres) define(ctx context.Context) error {
	for deadline := time.Now().Add(10 * time.Second); ; pause(ctx, 20*time.Millisecond) {
		if err := p.session(ctx, "-c", "SELECT 1").Run(); err == nil {
			break
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			return proto.Errorf(proto.CodeUnavailable, "the server did not start: %s", p.said)
		}
	}
	cmd := p.session(ctx, "-1", "-f", "-")
	cmd.Stdin = bytes.NewReader(postgresSchema)
	if out, err := cmd.CombinedOutput(); err != nil {
		return proto.Errorf(proto.CodeInternal, "define the tables: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// session is a psql that prints bare values and stops at an error.
func (p *postgres) session(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, p.psql, append([]string{"-XAtq", "-v", "ON_ERROR_STOP=1", "-h", p.dir, "-U", postgresUser, "postgres"}, args...)...)
}

func (p *postgres) close() error {
	if p.cmd != nil {
		if err := p.cmd.Process.Signal(os.Interrupt); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return err
		}
		var exit *exec.ExitError
		if err := p.cmd.Wait(); err != nil && !errors.As(err, &exit) {
			return err
		}
	}
	return os.RemoveAll(p.dir)
}

// statement is a connection on which a request is a line of SQL, and its
// answer a line too.
type statement struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	said *lastWords
}

func (p *postgres) connect(ctx context.Context) (exchange, error) {
	c := &statement{cmd: p.session(ctx), said: &lastWords{}}
	in, err := c.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.in, c.out, c.cmd.Stderr = in, bufio.NewReader(out), c.said
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	if _, _, err := c.do([]byte("SELECT 1;\n")); err != nil { // it is connected
		c.close()
		return nil, err
	}
	return c, nil
}

func (c *statement) do(request []byte) (status int, body []byte, err error) {
	if _, err := c.in.Write(request); err != nil {
		return 0, nil, proto.Errorf(proto.CodeUnavailable, "psql is gone; it said: %s", c.said)
	}
	line, err := c.out.ReadSlice('\n')
	if err != nil {
		return 0, nil, proto.Errorf(proto.CodeUnavailable, "psql gave no answer: %w; it said: %s", err, c.said)
	}
	return http.StatusOK, line[:len(line)-1], nil
}

func (c *statement) close() {
	_ = c.in.Close()
	_, _ = io.Copy(io.Discard, c.out)
	_ = c.cmd.Wait()
}

// pgLinker makes so many links a transaction.
type pgLinker struct {
	from    *meetings
	links   int
	edges   bool
	request []byte
	second  []byte
}

func (x *pgLinker) more() bool { return !x.from.over() }

func (x *pgLinker) next() []byte {
	x.request, x.second = append(x.request[:0], "SELECT link_all('{"...), x.second[:0]
	for range x.links {
		var a, b [identityLength]byte
		x.from.next().put(a[:], b[:])
		x.request = append(append(x.request, a[:]...), ',')
		x.second = append(append(x.second, b[:]...), ',')
	}
	x.request = append(x.request[:len(x.request)-1], "}','{"...)
	x.request = append(x.request, x.second[:len(x.second)-1]...)
	x.request = fmt.Appendf(x.request, "}',%t);\n", x.edges)
	return x.request
}

func (x *pgLinker) done(answer []byte) (int, error) {
	n, err := strconv.Atoi(string(answer))
	if err != nil || n != x.links {
		return 0, proto.Errorf(proto.CodeInvalid, "PostgreSQL answered %q to %d links", answer, x.links)
	}
	return n, nil
}

func (p *postgres) linkers(list []*meetings, links int, edges bool) load {
	workers := make([]worker, len(list))
	for i, m := range list {
		workers[i] = &pgLinker{from: m, links: links, edges: edges}
	}
	return load{connect: p.connect, workers: workers}
}

// link links new people, so many links a transaction, with edges so that it
// could un-merge them.
func (p *postgres) link(ctx context.Context, c *census, conns, links int, edges bool, d time.Duration) (sample, error) {
	list := c.meetings(conns, endless)
	x, err := p.linkers(list, links, edges).run(ctx, d)
	if err != nil {
		return x, err
	}
	return x, p.checkClusters(ctx, early(list))
}

// checkClusters looks whether some of the people are in one cluster each.
func (p *postgres) checkClusters(ctx context.Context, people []person) error {
	c, err := p.connect(ctx)
	if err != nil {
		return err
	}
	defer c.close()
	for range min(usersCheck, len(people)) {
		x := people[rand.IntN(len(people))]
		_, answer, err := c.do(fmt.Appendf(nil, "SELECT count(*), min(c.size) FROM identity i JOIN cluster c ON c.id = i.cluster WHERE i.cluster = (SELECT cluster FROM identity WHERE id = '%s');\n", x.identity(0)))
		if err != nil {
			return err
		}
		if want := fmt.Sprintf("%d|%d", x.browsers+1, x.browsers+1); string(answer) != want {
			return proto.Errorf(proto.CodeInvalid, "a cluster of PostgreSQL's is %q, it should be %q", answer, want)
		}
	}
	return nil
}

// pgLeaver opts one identity out a transaction.
type pgLeaver struct {
	from    *leaving
	request []byte
}

func (x *pgLeaver) next() []byte {
	d := x.from.next()
	x.request = fmt.Appendf(x.request[:0], "SELECT opt_out('%s');\n", d.identity(d.member))
	return x.request
}

func (x *pgLeaver) done(answer []byte) (int, error) {
	if _, err := strconv.Atoi(string(answer)); err != nil {
		return 0, proto.Errorf(proto.CodeInvalid, "PostgreSQL answered %q to an opt-out", answer)
	}
	return 1, nil
}

// optOut links people, and then opts one each of them out.
func (p *postgres) optOut(ctx context.Context, c *census, conns, people int, d time.Duration) (sample, error) {
	list := c.meetings(linkConns, people)
	if _, err := p.linkers(list, postEvents, true).drain(ctx); err != nil {
		return sample{}, err
	}
	from := newLeaving(met(list))
	workers := make([]worker, conns)
	for i := range workers {
		workers[i] = &pgLeaver{from: from}
	}
	return load{connect: p.connect, workers: workers, finish: from.finish}.run(ctx, d)
}
