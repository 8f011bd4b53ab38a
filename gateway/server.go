package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"kith/proto"
)

// shutdownMax is how long a server waits for requests in work when it stops.
const shutdownMax = 10 * time.Second

// Serve answers on both listeners until ctx is done, then lets requests in
// work finish, within a bound that neither plane takes from the other. It closes the
// listeners. Either may be nil.
func (g *Gateway) Serve(ctx context.Context, public, service net.Listener) error {
	planes := []struct {
		l net.Listener
		h http.Handler
	}{{public, g.public}, {service, g.Listening()}}
	var servers []*http.Server
	failed := make(chan error, len(planes))
	for _, p := range planes {
		if p.l == nil {
			continue
		}
		s := newServer(p.h, g.log)
		s.RegisterOnShutdown(g.live.stop) // it would wait for them
		servers = append(servers, s)
		go func() { failed <- s.Serve(p.l) }()
	}
	var err error
	waiting := len(servers)
	select {
	case <-ctx.Done():
	case err = <-failed:
		waiting--
	}
	var ending sync.WaitGroup
	for _, s := range servers {
		ending.Go(func() { end(s) })
	}
	ending.Wait()
	for range waiting {
		<-failed
	}
	if err != nil && !errors.Is(err, http.ErrServerClosed) {
		return proto.Errorf(proto.CodeUnavailable, "a listener failed: %w", err)
	}
	return nil
}

// end lets the requests that s has in work finish, and cuts those that do not in time.
func end(s *http.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownMax)
	defer cancel()
	if s.Shutdown(ctx) != nil {
		_ = s.Close()
	}
}

var errNotAtHome = proto.Errorf(proto.CodeForbidden, "with --dev keys are taken at localhost or an address in numbers only, since everybody knows them and any web page may give this machine a name of its own: ask at http://127.0.0.1 and the port")

// atHome refuses keys under names that a web page's server may have turned to this
// machine: its scripts know the keys of --dev.
func atHome(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.Header["Authorization"]) > 0 && !homely(hostname(r.Host)) {
			w.Header()["X-Content-Type-Options"] = noSniff
			fail(w, errNotAtHome)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// homely reports whether no name server was asked about a host.
func homely(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	_, err := netip.ParseAddr(host)
	return err == nil || !strings.Contains(host, ".") || strings.HasSuffix(host, ".localhost")
}

// KeepAudit writes what was counted of calls to the audit log, until ctx is done, and
// then the rest: it is to end after whatever answers calls.
func (g *Gateway) KeepAudit(ctx context.Context) error {
	if g.audit == nil {
		<-ctx.Done()
		return nil
	}
	g.audit.run(ctx, func(err error) {
		g.log.Error("counts of calls cannot be written to the audit log, they are counted on", "error", err)
	})
	return nil
}

func newServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      60 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}
