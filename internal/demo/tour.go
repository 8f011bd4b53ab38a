package demo

import (
	"context"
	"crypto/rand"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"html/template"
	"io"
	"net/http"
	"net/url"
	"slices"
	"sync"

	"kith/proto"
)

// This file is the tour: a page on which the reader's browser and a phone, which
// the site's server plays, become one person, and one of them opts out.

//go:embed tour
var tourFiles embed.FS

const (
	toursMax     = 64 // under way; the oldest is forgotten
	tourCookie   = "demo_tour"
	tourBodyMax  = 64 << 10
	phoneAgent   = "kith demo phone"
	phoneArticle = "food"
)

// tours are those under way.
type tours struct {
	demo *Demo

	mu   sync.Mutex
	list map[string]*phone // guarded by mu: by the tour's cookie
	ages []string          // guarded by mu: cookies, the oldest first
}

// phone is the second device of a tour.
type phone struct {
	mu sync.Mutex
	b  browser // guarded by mu
}

// register adds the tour's routes to the site's.
func (t *tours) register(mux *http.ServeMux) {
	page := template.Must(template.ParseFS(tourFiles, "tour/tour.html"))
	mux.HandleFunc("GET /tour", func(w http.ResponseWriter, r *http.Request) {
		// Each time that the page is loaded a tour begins, with another phone.
		http.SetCookie(w, &http.Cookie{Name: tourCookie, Value: t.begin(), Path: "/tour", HttpOnly: true, SameSite: http.SameSiteStrictMode})
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; script-src 'self' "+t.demo.c.Public+"; connect-src 'self' "+t.demo.c.Public+"; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		if err := page.Execute(w, pageData{Public: t.demo.c.Public, Client: t.demo.c.Client}); err != nil {
			t.demo.c.Log.Debug("a reader of the tour went away", "error", err)
		}
	})
	for _, file := range []string{"tour.css", "tour.js"} {
		mux.HandleFunc("GET /tour/"+file, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", "no-cache")
			http.ServeFileFS(w, r, tourFiles, "tour/"+file)
		})
	}
	mux.HandleFunc("GET /tour/state", t.answer(t.state))
	mux.HandleFunc("POST /tour/phone", t.answer(t.usePhone))
	mux.HandleFunc("POST /tour/verify", t.answer(t.verify))
}

// begin makes a tour and gives its cookie.
func (t *tours) begin() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b)
	t.mu.Lock()
	defer t.mu.Unlock()
	id := hex.EncodeToString(b)
	t.list[id] = &phone{b: browser{agent: phoneAgent}}
	t.ages = append(t.ages, id)
	if len(t.ages) > toursMax {
		delete(t.list, t.ages[0])
		t.ages = slices.Delete(t.ages, 0, 1)
	}
	return id
}

var errNoTour = proto.Errorf(proto.CodeNotFound, "this tour is not known any more: load the page again")

func (t *tours) phoneOf(r *http.Request) (*phone, error) {
	c, err := r.Cookie(tourCookie)
	if err != nil {
		return nil, errNoTour
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.list[c.Value]; p != nil {
		return p, nil
	}
	return nil, errNoTour
}

// answer is a handler of JSON for the page of a tour.
func (t *tours) answer(do func(*http.Request, *phone) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		p, err := t.phoneOf(r)
		var out any
		if err == nil {
			r.Body = http.MaxBytesReader(w, r.Body, tourBodyMax)
			out, err = do(r, p)
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		if err != nil {
			status := http.StatusBadGateway
			switch proto.CodeOf(err) {
			case proto.CodeNotFound:
				status = http.StatusNotFound
			case proto.CodeJSON, proto.CodeIdentity:
				status = http.StatusBadRequest
			}
			w.WriteHeader(status)
			out = map[string]string{"error": err.Error()}
		}
		_ = json.NewEncoder(w).Encode(out)
	}
}

// tourState is what the page shows.
type tourState struct {
	Browser device    `json:"browser"`
	Phone   device    `json:"phone"`
	User    *tourUser `json:"user"` // of the browser, else of the phone
}

type device struct {
	Identity string   `json:"identity"`
	Segments []string `json:"segments"`
	OptedOut bool     `json:"opted_out"`
}

type tourUser struct {
	Members []string   `json:"members"`
	Edges   []tourEdge `json:"edges"`
}

type tourEdge struct {
	A string `json:"a"`
	B string `json:"b"`
}

// state is what the node knows of both devices.
func (t *tours) state(r *http.Request, p *phone) (any, error) {
	var s tourState
	s.Browser.Identity, s.Phone.Identity = r.URL.Query().Get("browser"), p.identity()
	for _, d := range []*device{&s.Browser, &s.Phone} {
		d.Segments = []string{}
		if d.Identity == "" {
			continue
		}
		if _, err := proto.ParseIdentity(d.Identity); err != nil {
			return nil, err
		}
		path := url.PathEscape(d.Identity)
		if err := t.demo.ask(r.Context(), http.MethodGet, "/v1/identities/"+path+"/segments", nil, d); err != nil {
			return nil, err
		}
		var u tourUser
		if err := t.demo.ask(r.Context(), http.MethodGet, "/v1/users/"+path, nil, &u); err != nil {
			return nil, err
		}
		if s.User == nil || len(u.Members) > len(s.User.Members) {
			s.User = &u
		}
	}
	return s, nil
}

// identity is the phone's at the node, "" before its first visit.
func (p *phone) identity() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.b.id == "" {
		return ""
	}
	return "browser:" + p.b.id
}

// usePhone has the phone read a story or log in.
func (t *tours) usePhone(r *http.Request, p *phone) (any, error) {
	var x struct{ Account string }
	if err := json.NewDecoder(r.Body).Decode(&x); err != nil {
		return nil, proto.Errorf(proto.CodeJSON, "the phone is told in JSON what to do: %w", err)
	}
	e := page(phoneArticle, 1)
	if x.Account != "" {
		if _, err := proto.ParseIdentity("account:" + x.Account); err != nil {
			return nil, err
		}
		e = event{Event: "identify", Identities: []string{"account:" + x.Account}}
	}
	body, err := json.Marshal(map[string]any{"client": t.demo.c.Client, "events": []event{e}})
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return map[string]string{}, t.demo.browse(r.Context(), &p.b, "/v1/events", "application/json", body, nil)
}

// verify has the node look for what a receipt says is gone.
func (t *tours) verify(r *http.Request, _ *phone) (any, error) {
	b, err := io.ReadAll(r.Body)
	var large *http.MaxBytesError
	if errors.As(err, &large) || !json.Valid(b) {
		return nil, proto.Errorf(proto.CodeJSON, "a receipt is JSON of at most %d bytes", tourBodyMax)
	}
	var out json.RawMessage
	err = t.demo.ask(context.WithoutCancel(r.Context()), http.MethodPost, "/v1/receipts/verify", json.RawMessage(b), &out)
	return out, err
}
