package gateway

import (
	"net/http"
	"net/http/pprof"
	"strings"

	"kith/proto"
)

// getProfile gives operators the runtime's profiles: CPU (?seconds=), heap,
// goroutine, mutex and so on, as go tool pprof reads them.
func (g *Gateway) getProfile(w http.ResponseWriter, r *http.Request, _ proto.Principal) error {
	switch name := strings.TrimPrefix(r.URL.Path, "/debug/pprof/"); name {
	case "profile":
		pprof.Profile(w, r)
	case "heap", "allocs", "goroutine", "mutex", "block", "threadcreate":
		pprof.Handler(name).ServeHTTP(w, r)
	default:
		return notHere(r.URL.Path)
	}
	return nil
}
