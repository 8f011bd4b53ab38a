package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"kith/proto"
)

// startingMax is how long a question waits for a node that is starting.
const startingMax = 30 * time.Second

var errStarting = proto.Errorf(proto.CodeUnavailable, "the node is starting: try again shortly; its log says what it waits for")

// Starting answers on the service plane while the node is being opened, which takes
// minutes where a copy of another's data is fetched: /healthz that the process is
// there, /readyz that it is not ready. Whatever else is asked waits for the node.
type Starting struct {
	server  *http.Server
	port    Port
	opened  chan struct{}
	node    http.Handler   // once opened is closed
	serving sync.WaitGroup // the listener is in use
	back    sync.Once
}

// Port is what a listener's Accept can be called back by.
type Port interface{ SetDeadline(time.Time) error }

// Start answers on l, whose port is below it, until Open or Stop.
func Start(l net.Listener, port Port, log *slog.Logger) *Starting {
	s := &Starting{port: port, opened: make(chan struct{})}
	s.server = newServer(s, log)
	s.serving.Go(func() {
		if err := s.server.Serve(lentListener{l}); !errors.Is(err, net.ErrClosed) {
			log.Warn("whether the node is ready cannot be told while it starts", "error", err)
		}
	})
	return s
}

// ServeHTTP implements http.Handler.
func (s *Starting) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header()["X-Content-Type-Options"] = noSniff
	most := startingMax
	if r.URL.Path == "/healthz" || r.URL.Path == "/readyz" {
		most = 0
	}
	if s.await(r.Context(), most) {
		s.node.ServeHTTP(w, r)
	} else if r.URL.Path == "/healthz" {
		writeJSON(w, http.StatusOK, alive)
	} else {
		fail(w, errStarting)
	}
}

// await reports whether the node is there, for which it waits a while.
func (s *Starting) await(ctx context.Context, most time.Duration) bool {
	select {
	case <-s.opened:
		return true
	default:
	}
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	select {
	case <-s.opened:
		return true
	case <-ctx.Done():
		return false
	}
}

// Open gives the node who waits, and the listener back: it may be served when Open
// returns. Who came early is answered for as long as it takes, until Stop.
func (s *Starting) Open(node http.Handler) {
	s.node = node
	close(s.opened)
	s.giveBack()
}

// Stop ends answering, within a bound; the listener stays open. It may be called again.
func (s *Starting) Stop() {
	s.giveBack()
	end(s.server)
}

func (s *Starting) giveBack() {
	s.back.Do(func() {
		_ = s.port.SetDeadline(time.Unix(1, 0))
		s.serving.Wait() // nothing comes any more
		_ = s.port.SetDeadline(time.Time{})
		s.server.SetKeepAlivesEnabled(false) // Shutdown would drop who was not heard yet
	})
}

// lentListener is a listener that somebody else closes.
type lentListener struct{ net.Listener }

// Accept gives net.ErrClosed once the listener is wanted back.
func (l lentListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	var late net.Error
	if errors.As(err, &late) && late.Timeout() {
		return nil, net.ErrClosed
	}
	return c, err
}

// Close implements net.Listener: the listener is not ours.
func (l lentListener) Close() error { return nil }
