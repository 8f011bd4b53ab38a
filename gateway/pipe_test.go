package gateway_test

import (
	"bufio"
	"net"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"
)

// pipeListener is a listener without a network, whose waiting synctest knows.
type pipeListener struct {
	coming chan net.Conn
	closed chan struct{}
	once   sync.Once

	mu   sync.Mutex
	late chan struct{} // closed while the deadline is over
}

func newPipeListener() *pipeListener {
	return &pipeListener{coming: make(chan net.Conn), closed: make(chan struct{}), late: make(chan struct{})}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	l.mu.Lock()
	late := l.late
	l.mu.Unlock()
	select {
	case c := <-l.coming:
		return c, nil
	case <-late:
		return nil, os.ErrDeadlineExceeded
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// SetDeadline knows past times and none.
func (l *pipeListener) SetDeadline(t time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !t.IsZero() {
		close(l.late)
	} else {
		l.late = make(chan struct{})
	}
	return nil
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

// dial connects, sends a text, and gives what reads the answer.
func (l *pipeListener) dial(t *testing.T, text string) (net.Conn, func() (*http.Response, error)) {
	t.Helper()
	c, far := net.Pipe()
	l.coming <- far
	if _, err := c.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	return c, func() (*http.Response, error) { return http.ReadResponse(bufio.NewReader(c), nil) }
}
