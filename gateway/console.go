package gateway

import (
	"embed"
	"net/http"
	"sync"

	"kith/proto"
)

// consoleFiles are the web console: one page, its style and its modules. It is a
// client of the service plane like any other, without rights of its own: what it
// shows, the routes say to the key that was typed in.
//
//go:embed console
var consoleFiles embed.FS

// consolePage is the file that /console answers with.
const consolePage = "index.html"

// consolePolicy lets the page load its own files, talk to its own node, and
// nothing else; texts become markup nowhere.
const consolePolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

var consoleAssets = sync.OnceValues(func() (map[string]asset, error) {
	list, err := consoleFiles.ReadDir("console")
	if err != nil {
		return nil, proto.Errorf(proto.CodeInternal, "the console's files: %w", err)
	}
	var names []string
	for _, f := range list {
		names = append(names, f.Name())
	}
	return readAssets(consoleFiles, "console", names...)
})

// addConsole adds the console's routes, which need no key.
func (g *Gateway) addConsole(p *plane) {
	page := map[string]handler{http.MethodGet: func(w http.ResponseWriter, r *http.Request) error {
		return g.sendConsole(w, r, consolePage)
	}}
	p.add("/console", page)
	p.add("/console/{file}", map[string]handler{http.MethodGet: func(w http.ResponseWriter, r *http.Request) error {
		return g.sendConsole(w, r, r.PathValue("file"))
	}})
}

func (g *Gateway) sendConsole(w http.ResponseWriter, r *http.Request, name string) error {
	f, ok := g.console[name]
	if !ok {
		return notHere(r.URL.Path)
	}
	h := w.Header()
	h.Set("Content-Security-Policy", consolePolicy)
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Cache-Control", "no-cache") // kept, and asked about: a new build shows at once
	f.send(w, r)
	return nil
}

// keyAbout is what a key is told of itself.
type keyAbout struct {
	Role    proto.Role       `json:"role"`
	Client  proto.ClientName `json:"client,omitempty"`
	Floor   int              `json:"floor,omitempty"` // the least count that it is told
	Cluster bool             `json:"cluster"`         // the routes of nodes are there
	Version string           `json:"version,omitempty"`
}

// getKey says what the key is for.
func (g *Gateway) getKey(w http.ResponseWriter, _ *http.Request, who proto.Principal) error {
	a := keyAbout{Role: who.Role, Client: who.Client, Cluster: g.deps.Cluster != nil, Version: g.c.Version}
	if who.Role != proto.RoleAdmin {
		client, err := g.clientFor(who, "")
		if err != nil {
			return err
		}
		a.Floor = g.floor(client)
	}
	w.Header()["Cache-Control"] = noStore
	return writeValue(w, http.StatusOK, a)
}
