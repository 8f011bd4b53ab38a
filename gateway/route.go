package gateway

import (
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"kith/proto"
)

// handler answers a request, or says why not; then nothing is written yet.
type handler func(w http.ResponseWriter, r *http.Request) error

// route is one path with its methods.
type route struct {
	pattern string
	methods map[string]handler
	plain   map[string]handler // without what their plane has them go through
	passed  map[string]bool    // methods that other nodes may pass on
	allow   string
	metrics *routeMetrics
	log     *slog.Logger
}

// Route is one path of a plane and a method that it takes.
type Route struct{ Plane, Method, Path string }

// Routes are all that there are, for those who write about each of them.
func (g *Gateway) Routes() []Route { return slices.Concat(g.public.list, g.service.list) }

// plane is one listener's routes. Paths in quick and those that lookupPath
// knows are found without the mux.
type plane struct {
	list    []Route
	routes  *http.ServeMux
	quick   map[string]*route
	segment *route // /v1/identities/{identity}/segments, on the service plane
	unknown *routeMetrics
	metrics *metrics
	log     *slog.Logger
	name    string

	guarded bool // answers of the API carry a policy of content

	wrap func(route string, h handler) handler // what each handler goes through; nil: nothing
}

func (g *Gateway) newPlane(name string) *plane {
	m := g.metrics
	p := &plane{routes: http.NewServeMux(), quick: map[string]*route{}, metrics: m, log: g.log, name: name, unknown: m.route(name, "unknown")}
	p.routes.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		p.unknown.count(fail(w, notHere(r.URL.Path)))
	})
	return p
}

func notHere(path string) error {
	return proto.Errorf(proto.CodeNotFound, "there is no route %s: see docs/api.md", clip(path))
}

// clip shortens untrusted text for a message.
func clip(s string) string {
	if len(s) <= 100 {
		return s
	}
	return s[:97] + "..."
}

// add gives a path its methods, as method, handler pairs in one map.
func (p *plane) add(pattern string, methods map[string]handler) *route {
	allow := make([]string, 0, len(methods)+1)
	for m := range methods {
		allow = append(allow, m)
	}
	slices.Sort(allow)
	plain := maps.Clone(methods)
	for _, m := range allow {
		p.list = append(p.list, Route{p.name, m, pattern})
		if p.wrap != nil {
			methods[m] = p.wrap(m+" "+pattern, methods[m])
		}
	}
	if get, ok := methods[http.MethodGet]; ok {
		methods[http.MethodHead] = get
		allow = append(allow, http.MethodHead)
		slices.Sort(allow)
	}
	rt := &route{pattern: pattern, methods: methods, plain: plain, allow: strings.Join(allow, ", "), metrics: p.metrics.route(p.name, pattern), log: p.log.With("path", pattern)}
	p.routes.Handle(pattern, rt)
	if !strings.Contains(pattern, "{") {
		p.quick[pattern] = rt
	}
	return rt
}

// getOnly takes HEAD away from a route whose GET stores something: crawlers and proxies
// send it to look.
func (rt *route) getOnly() *route {
	delete(rt.methods, http.MethodHead)
	rt.allow = http.MethodGet
	return rt
}

// asked makes a method a question, which another node answers where this one may
// not.
func (rt *route) asked(g *Gateway, method string) *route {
	if g.deps.Others == nil {
		return rt
	}
	if rt.passed == nil {
		rt.passed = map[string]bool{}
	}
	rt.passed[method] = true
	rt.methods[method] = g.elsewhere(method+" "+rt.pattern, rt.plain[method])
	if method == http.MethodGet {
		rt.passed[http.MethodHead], rt.methods[http.MethodHead] = true, rt.methods[method]
	}
	return rt
}

// passedOn reports whether a request is one that other nodes may pass on.
func (p *plane) passedOn(r *http.Request) bool {
	rt := p.quick[r.URL.Path]
	if _, ok := lookupPath(r.URL); ok && rt == nil {
		rt = p.segment
	}
	if rt == nil {
		h, _ := p.routes.Handler(r)
		rt, _ = h.(*route)
	}
	return rt != nil && rt.passed[r.Method]
}

func (rt *route) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	status := http.StatusOK
	if h, ok := rt.methods[r.Method]; !ok {
		w.Header().Set("Allow", rt.allow)
		status = fail(w, proto.Errorf(proto.CodeMethod, "this route takes %s", rt.allow))
	} else if err := h(w, r); err != nil {
		if status = fail(w, err); status == http.StatusInternalServerError {
			rt.log.Error("a request failed", "error", err) // the caller is not told the cause
		}
	}
	rt.metrics.count(status)
	rt.metrics.seconds.Observe(time.Since(start).Seconds())
}

// headersMax bounds the names of a request's headers; net/http bounds their
// bytes.
const headersMax = 200

func (p *plane) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if len(r.TransferEncoding) > 0 {
		// A proxy in front may have gone by a Content-Length that was there too, and
		// take what comes next on the connection for another's request.
		w.Header()["Connection"] = []string{"close"}
	}
	p.guard(w.Header(), r)
	if len(r.Header) > headersMax {
		writeJSON(w, http.StatusRequestHeaderFieldsTooLarge, appendError(nil, proto.Errorf(proto.CodeTooLarge, "the request has over %d headers: send fewer", headersMax)))
		return
	}
	if rt, ok := p.quick[r.URL.Path]; ok {
		rt.ServeHTTP(w, r)
		return
	}
	if p.segment != nil {
		if _, ok := lookupPath(r.URL); ok {
			p.segment.ServeHTTP(w, r)
			return
		}
	}
	// The mux would redirect such a path with a page of HTML.
	if e := r.URL.EscapedPath(); e == "//" || e != path.Clean(e) && e != path.Clean(e)+"/" {
		p.unknown.count(fail(w, notHere(r.URL.Path)))
		return
	}
	p.routes.ServeHTTP(w, r)
}

// Values of guard's headers.
var (
	noSniff   = []string{"nosniff"}
	noContent = []string{"default-src 'none'; frame-ancestors 'none'"}
	onlyTLS   = []string{"max-age=31536000"}
)

// guard keeps browsers from making anything else of an answer than the data that
// it is, wherever somebody opens or embeds it, and from asking without TLS.
func (p *plane) guard(h http.Header, r *http.Request) {
	h["X-Content-Type-Options"] = noSniff
	if p.guarded && strings.HasPrefix(r.URL.Path, "/v1/") {
		h["Content-Security-Policy"] = noContent
	}
	if r.TLS != nil {
		h["Strict-Transport-Security"] = onlyTLS
	}
}

const (
	identitiesPrefix = "/v1/identities/"
	segmentsSuffix   = "/segments"
)

// lookupPath is the identity, still escaped if RawPath is set, of a path
// /v1/identities/{identity}/segments.
func lookupPath(u *url.URL) (string, bool) {
	p := u.Path
	if u.RawPath != "" {
		p = u.RawPath
	}
	if len(p) <= len(identitiesPrefix)+len(segmentsSuffix) || !strings.HasPrefix(p, identitiesPrefix) || !strings.HasSuffix(p, segmentsSuffix) {
		return "", false
	}
	id := p[len(identitiesPrefix) : len(p)-len(segmentsSuffix)]
	return id, strings.IndexByte(id, '/') < 0
}

// queryValue is the first value of name in a raw query, "" if there is none
// or it cannot be unescaped.
func queryValue(raw, name string) string {
	for raw != "" {
		var pair string
		pair, raw, _ = strings.Cut(raw, "&")
		key, value, _ := strings.Cut(pair, "=")
		if parameter(key) == name {
			v, err := url.QueryUnescape(value)
			if err != nil {
				return ""
			}
			return v
		}
	}
	return ""
}

// parameter is the name that a key of a query stands for; one that cannot be unescaped
// stays as it is.
func parameter(key string) string {
	if strings.IndexByte(key, '%') < 0 {
		return key
	}
	if name, ok := unescaped(key); ok {
		return name
	}
	return key
}

// checkEscapes refuses a query of which queryValue would pass over a name or value that
// cannot be unescaped. A consent signal like that is taken, as one that refuses.
func checkEscapes(raw string) error {
	for strings.IndexByte(raw, '%') >= 0 {
		var pair string
		pair, raw, _ = strings.Cut(raw, "&")
		key, value, _ := strings.Cut(pair, "=")
		_, named := unescaped(key)
		if _, ok := unescaped(value); !named || !ok && new(signals).take(parameter(key), "") == 0 {
			return proto.Errorf(proto.CodeInvalid, "%s in the query has a broken %% escape: nothing is done", clip(key))
		}
	}
	return nil
}

// parseQuery reads a query whose values decide what goes, so that none may be
// passed over, nor one of these names for its capitals.
func parseQuery(raw string, names ...string) (url.Values, error) {
	q, err := url.ParseQuery(raw)
	if err != nil {
		return nil, proto.Errorf(proto.CodeInvalid, "the query has a broken %% escape, or a semicolon: nothing is done")
	}
	for name := range q {
		if !slices.Contains(names, name) && slices.Contains(names, strings.ToLower(name)) {
			return nil, proto.Errorf(proto.CodeInvalid, "%s is in the query, not in small letters: nothing is done", clip(name))
		}
	}
	return q, nil
}

// keyed is a handler behind a service key.
type keyed func(w http.ResponseWriter, r *http.Request, who proto.Principal) error

// keyOf is the key of an Authorization header.
func keyOf(header []string) string {
	if len(header) != 1 {
		return ""
	}
	const scheme = "Bearer "
	h := header[0]
	if len(h) <= len(scheme) || !strings.EqualFold(h[:len(scheme)], scheme) {
		return ""
	}
	return h[len(scheme):]
}

// authenticate checks a key and its role.
func (g *Gateway) authenticate(key string, roles ...proto.Role) (proto.Principal, error) {
	if key == "" || len(key) > 256 {
		return proto.Principal{}, proto.Errorf(proto.CodeUnauthorized, "a key is needed: send Authorization: Bearer KEY")
	}
	who, ok := g.deps.Accounts.Authenticate(key)
	if !ok {
		g.metrics.unauthorized.Inc()
		return proto.Principal{}, proto.Errorf(proto.CodeUnauthorized, "the key is not known: make one with kith key create")
	}
	if !slices.Contains(roles, who.Role) {
		return proto.Principal{}, proto.Errorf(proto.CodeForbidden, "a key with role %s may not do this: use one with role %s", who.Role, joined(roles))
	}
	return who, nil
}

// joined are roles as people read them.
func joined(roles []proto.Role) string {
	var names []string
	for _, r := range roles {
		names = append(names, string(r))
	}
	return strings.Join(names, " or ")
}

// behindKey lets only keys with one of the roles through.
func (g *Gateway) behindKey(h keyed, roles ...proto.Role) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		who, err := g.authenticate(keyOf(r.Header["Authorization"]), roles...)
		if err != nil {
			return err
		}
		noteWho(w, who)
		if err := checkEscapes(r.URL.RawQuery); err != nil {
			return err
		}
		return h(w, r, who)
	}
}

// clientFor is the client that a principal speaks for, when the request names
// wanted (which may be empty). A client's key learns nothing of other clients:
// the refusal is the same whether they exist or not.
func (g *Gateway) clientFor(who proto.Principal, wanted string) (proto.ClientInfo, error) {
	if who.Role == proto.RoleAdmin {
		if wanted == "" {
			return proto.ClientInfo{}, proto.Errorf(proto.CodeClient, "an admin key must name the client: add ?client=NAME, or --client NAME to a command")
		}
		return g.clientNamed(wanted)
	}
	if wanted != "" && wanted != string(who.Client) {
		return proto.ClientInfo{}, proto.Errorf(proto.CodeForbidden, "this key is for another client: leave client out")
	}
	client, ok := g.deps.Accounts.Client(who.Client)
	if !ok {
		return proto.ClientInfo{}, proto.Errorf(proto.CodeUnavailable, "the key's client is not known to this node yet: try again")
	}
	return client, nil
}

// clientOf is clientFor with the name in the query.
func (g *Gateway) clientOf(who proto.Principal, r *http.Request) (proto.ClientInfo, error) {
	if r.URL.RawQuery == "" {
		return g.clientFor(who, "")
	}
	return g.clientFor(who, queryValue(r.URL.RawQuery, "client"))
}
