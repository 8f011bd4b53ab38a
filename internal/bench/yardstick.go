package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"kith/proto"
)

// yardstick is a bare net/http server in a process of its own.
type yardstick struct {
	*child
	addr string
}

func (s *session) startYardstick(ctx context.Context, args ...string) (*yardstick, error) {
	c, err := s.start(ctx, append([]string{"yardstick"}, args...)...)
	if err != nil {
		return nil, err
	}
	y := &yardstick{child: c}
	if y.addr, err = c.answer(); err != nil {
		_ = c.close()
		return nil, err
	}
	return y, nil
}

// measured runs a load and notes the process's processor time.
func (c *child) measured(ctx context.Context, l load, d time.Duration) (sample, error) {
	before := c.usage()
	x, err := l.run(ctx, d)
	x.cpu = c.usage().cpu - before.cpu
	return x, err
}

// discard is the least that a handler of posts can do.
func discard(w http.ResponseWriter, r *http.Request) {
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header()["Content-Length"] = []string{"2"}
	_, _ = io.WriteString(w, "ok")
}

// echo sends a body back.
func echo(w http.ResponseWriter, r *http.Request) {
	body := make([]byte, max(r.ContentLength, 0))
	if _, err := io.ReadFull(r.Body, body); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	h := w.Header()
	h["Content-Type"] = []string{"application/json"}
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	_, _ = w.Write(body)
}

// onePixel is a picture of one pixel.
var onePixel, _ = base64.StdEncoding.DecodeString("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAICRAEAOw==")

// picture answers anything with the picture.
func picture(w http.ResponseWriter, _ *http.Request) {
	w.Header()["Content-Type"] = []string{"image/gif"} // its length net/http adds, as at the node
	_, _ = w.Write(onePixel)
}

// answers is an in-memory look-up: what is answered on each path. It reads what
// is posted, as whoever answers a post must.
type answers map[string][]byte

// ServeHTTP implements http.Handler.
func (a answers) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, ok := a[r.URL.Path]
	if !ok {
		http.NotFound(w, r)
		return
	}
	if r.Method == http.MethodPost {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
	}
	h := w.Header()
	h["Content-Type"] = []string{"application/json"}
	h["Content-Length"] = []string{strconv.Itoa(len(b))}
	_, _ = w.Write(b)
}

// write and readAnswers keep answers in a file: path, tab, answer, newline.
func (a answers) write(name string) error {
	var b bytes.Buffer
	for path, answer := range a {
		fmt.Fprintf(&b, "%s\t%s\n", path, bytes.TrimSuffix(answer, []byte{'\n'}))
	}
	return os.WriteFile(name, b.Bytes(), 0o600)
}

func readAnswers(name string) (answers, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	a := answers{}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, answerBytesMax)
	for lines.Scan() {
		path, answer, ok := bytes.Cut(lines.Bytes(), []byte{'\t'})
		if !ok {
			return nil, proto.Errorf(proto.CodeInvalid, "%s holds a line without a tab", name)
		}
		a[string(path)] = append(bytes.Clone(answer), '\n')
	}
	return a, lines.Err()
}

// ServeYardstick runs a bare server, "discard", "echo", "picture", "answers" or
// "town" of a file, and obeys in until it ends.
func ServeYardstick(name, file string, in io.Reader, out io.Writer) error {
	var h http.Handler
	switch name {
	case "discard":
		h = http.HandlerFunc(discard)
	case "echo":
		h = http.HandlerFunc(echo)
	case "picture":
		h = http.HandlerFunc(picture)
	case "answers":
		a, err := readAnswers(file)
		if err != nil {
			return err
		}
		h = a
	case "town":
		t, err := readTown(file)
		if err != nil {
			return err
		}
		h = townServer{t}
	default:
		return proto.Errorf(proto.CodeInvalid, "there is no yardstick %q", name)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := http.Server{Handler: h, ReadHeaderTimeout: exchangeMax}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(l) }()
	fmt.Fprintf(out, "%s%s\n", answerMark, l.Addr())
	Obey(in, out, nil)
	err = server.Close()
	if e := <-failed; !errors.Is(e, http.ErrServerClosed) {
		err = errors.Join(err, e)
	}
	return err
}
