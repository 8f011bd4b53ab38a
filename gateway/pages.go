package gateway

import (
	"bytes"
	"embed"
	"encoding/json"
	"html/template"
	"mime"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"sync"
	"time"

	"kith/proto"
)

//go:embed pages/people.html pages/people.css pages/people.js
var pageSource embed.FS

// pages are what people meet: two pages, their style and their script.
type pages struct {
	people *template.Template
	files  map[string]asset // by name
	key    []byte           // of forms' tokens
}

func newPages(key []byte) (p pages, err error) {
	if p.people, err = template.ParseFS(pageSource, "pages/people.html"); err != nil {
		return p, proto.Errorf(proto.CodeInternal, "read the pages: %w", err)
	}
	// A key of its own: what pseudonyms are made with makes nothing else.
	p.key = derivedKey(key, "tokens of forms")
	p.files, err = pageAssets()
	return p, err
}

var pageAssets = sync.OnceValues(func() (map[string]asset, error) {
	return readAssets(pageSource, "pages", "people.css", "people.js")
})

// pageHeaders are those of every page. No other site can put it into a frame,
// read it or add to it. The policy of referrers must let a form's own Origin
// through: with no-referrer browsers send "null".
var pageHeaders = map[string]string{
	"Content-Type": "text/html; charset=utf-8",
	"Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; " +
		"form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
	"X-Frame-Options":              "DENY",
	"X-Content-Type-Options":       "nosniff",
	"Referrer-Policy":              "same-origin",
	"Cross-Origin-Opener-Policy":   "same-origin",
	"Cross-Origin-Resource-Policy": "same-origin",
	"Cache-Control":                "no-store",
	"Vary":                         "Accept-Language",
}

// pageAsset answers with a page's style or script.
func (g *Gateway) pageAsset(w http.ResponseWriter, r *http.Request) error {
	f, ok := g.pages.files[path.Base(r.URL.Path)]
	if !ok {
		return notHere(r.URL.Path)
	}
	h := w.Header()
	h.Set("Cache-Control", "public, max-age=3600")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	f.send(w, r)
	return nil
}

// pageView is what a page shows.
type pageView struct {
	W         *words
	Optout    bool // the page /optout, else /choices
	Title     string
	Languages []pageLink
	Query     string // of the page's address: language and client
	Token     string
	Outcome   *outcome
	Standing  standing
	By        string // why nothing is stored, in words
	Uncut     bool   // the browser's own opt-out was kept, but what is stored was not cut, or not seen to be
	Signals   []pageSignal

	Client   string
	Clients  []pageLink
	Unasked  bool // whether more clients hold something is not known
	Several  bool // the browser has several identities, so nothing is shown
	Crowded  bool // more than are looked at
	Unproven bool // one came without its proof
	Barred   bool // and none came with it: there is nothing to show and to change
	Ages     []pageChoice
	Genders  []pageChoice
	Traits   []pageTrait // the others
	Held     *pageHeld
}

// outcome is what came of a form.
type outcome struct {
	Bad     bool
	Text    string
	Receipt string // JSON
}

type pageLink struct {
	Name, Lang, Address string
	Here                bool
}

type pageSignal struct{ Name, Effect string }

type pageChoice struct {
	Value, Text string
	Chosen      bool
}

type pageTrait struct {
	Name, Value string
	Fixed       bool // goes with an erasure only
}

type pageHeld struct {
	First, Last string
	Segments    []proto.SegmentID
	Events      []pageEvent
	Total       int
	Truncated   bool
	Record      string // address of all of it as JSON
}

type pageEvent struct{ Time, Name, URL string }

// view begins a page. status is what the page is to be answered with.
func (g *Gateway) view(r *http.Request, v *visit, optout bool) pageView {
	asked := queryValue(r.URL.RawQuery, "lang")
	client := queryValue(r.URL.RawQuery, "client")
	x := pageView{W: wordsFor(asked, r.Header.Get("Accept-Language")), Optout: optout, Client: client}
	x.Title = x.W.ChoicesTitle
	if optout {
		x.Title = x.W.OptOutTitle
	}
	x.Query = pageQuery(x.W.Lang, client)
	for _, w := range languages {
		x.Languages = append(x.Languages, pageLink{Name: w.Name, Lang: w.Lang, Address: pageQuery(w.Lang, client), Here: w == x.W})
	}
	x.Token = g.formToken(v)
	return x
}

func pageQuery(lang, client string) string {
	q := url.Values{"lang": {lang}}
	if client != "" {
		q.Set("client", client)
	}
	return "?" + q.Encode()
}

// stand fills in how the visitor stands.
func (g *Gateway) stand(r *http.Request, v *visit, x *pageView) {
	client := proto.ClientName("")
	if info, err := g.clientNamed(x.Client); err == nil {
		client = info.Name
	}
	x.Standing = g.standingOf(r.Context(), r, v, client)
	x.By = x.W.By[x.Standing.By]
	x.Uncut = v.cookie && len(v.claims()) > 0
	e := x.Standing.Signals
	for _, s := range []struct{ code, effect string }{
		{withheldCookie, e.Cookie}, {withheldGPC, e.GPC}, {withheldDNT, e.DNT}, {withheldOptedOut, e.OptedOut}, {withheldGDPR, e.GDPR},
		{withheldUSPrivacy, e.USPrivacy}, {withheldGPP, e.GPP}, {withheldLMT, e.LMT}, {withheldCOPPA, e.COPPA},
	} {
		// Those that a browser cannot send by itself are named where they are there.
		if browsers := s.code == withheldCookie || s.code == withheldGPC || s.code == withheldDNT; browsers || s.effect != effectAbsent {
			x.Signals = append(x.Signals, pageSignal{x.W.Signals[s.code], x.W.Effects[s.effect]})
		}
	}
}

// show answers with a page.
func (g *Gateway) show(w http.ResponseWriter, status int, x *pageView) error {
	var b bytes.Buffer
	if err := g.pages.people.ExecuteTemplate(&b, "page", x); err != nil {
		return proto.Errorf(proto.CodeInternal, "make a page: %w", err)
	}
	h := w.Header()
	for name, value := range pageHeaders {
		h.Set(name, value)
	}
	h.Set("Content-Language", x.W.Lang)
	h.Set("Content-Length", strconv.Itoa(b.Len()))
	if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		h.Set("Retry-After", "1")
	}
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes())
	return nil
}

// failed puts what went wrong in words, and gives the status to answer with.
func (x *pageView) failed(err error) int {
	e := asError(err)
	text, ok := x.W.Failures[e.Code]
	if !ok {
		text = x.W.Failure
	}
	x.Outcome = &outcome{Bad: true, Text: text}
	return statusOf(e.Code)
}

// receiptText is a receipt as people may keep it.
func receiptText(r *proto.Receipt) string {
	if r == nil {
		return ""
	}
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return ""
	}
	return string(b)
}

const (
	formType     = "application/x-www-form-urlencoded"
	formBytesMax = 64 << 10

	// formTokenAge is for how long a page may lie open.
	formTokenAge = 12 * time.Hour
)

// formToken is what a form of the visitor's page carries for browsers that do not
// say where a request comes from.
func (g *Gateway) formToken(v *visit) string {
	return proofOf(g.pages.key, formClaim(v), g.c.Now().Add(formTokenAge).Unix())
}

// formClaim names all that the browser carries, in any order of its cookies.
func formClaim(v *visit) string {
	claims := slices.Sorted(slices.Values(v.claims()))
	b := []byte("form")
	for _, id := range claims {
		b = append(append(b, '|'), id...)
	}
	return string(b)
}

// fromPage reports whether a form comes from one of our pages, or one of the same
// site. Browsers say so in Sec-Fetch-Site or Origin; where neither is there, the
// form must carry this browser's token.
func (g *Gateway) fromPage(r *http.Request, v *visit, token string) bool {
	if r.Header.Get("Sec-Fetch-Site") != "" || r.Header.Get("Origin") != "" {
		return sameSite(r)
	}
	return proven(g.pages.key, formClaim(v), token, g.millis())
}

// readForm reads the form of a page, if it comes from one.
func (g *Gateway) readForm(w http.ResponseWriter, r *http.Request, v *visit) (url.Values, error) {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != formType {
		return nil, proto.Errorf(proto.CodeMediaType, "send the page's own form")
	}
	body, err := g.readPublic(w, r, nil, formBytesMax)
	if err != nil {
		return nil, err
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, proto.Errorf(proto.CodeInvalid, "the form has a broken %% escape")
	}
	if !g.fromPage(r, v, form.Get("token")) {
		return nil, errCrossSite
	}
	return form, nil
}
