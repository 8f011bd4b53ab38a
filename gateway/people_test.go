package gateway_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/html"

	"kith/gateway"
	"kith/proto"
)

// ownPage are the headers of a form that one of our pages sends.
var ownPage = []string{"Content-Type", "application/x-www-form-urlencoded", "Sec-Fetch-Site", "same-origin", "Origin", "http://example.com"}

// submit sends a page's form.
func (r *rig) submit(target, body string, headers ...string) *httptest.ResponseRecorder {
	return r.visit("POST", target, body, append(slices.Clone(ownPage), headers...)...)
}

// parsePage reads a page's HTML.
func parsePage(t *testing.T, w *httptest.ResponseRecorder) *html.Node {
	t.Helper()
	n, err := html.Parse(strings.NewReader(w.Body.String()))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// find are the elements below n that have an attribute, or any if it is "".
func find(n *html.Node, element, attribute string) (list []*html.Node) {
	for x := range n.Descendants() {
		if x.Type == html.ElementNode && x.Data == element && (attribute == "" || attr(x, attribute) != "") {
			list = append(list, x)
		}
	}
	return list
}

func attr(n *html.Node, name string) string {
	value, _ := attrThere(n, name)
	return value
}

func attrThere(n *html.Node, name string) (value string, there bool) {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val, true
		}
	}
	return "", false
}

func text(n *html.Node) string {
	var b strings.Builder
	for x := range n.Descendants() {
		if x.Type == html.TextNode {
			b.WriteString(x.Data)
		}
	}
	return strings.Join(strings.Fields(b.String()), " ")
}

// outcomeOf is what a page says came of a form.
func outcomeOf(t *testing.T, w *httptest.ResponseRecorder) (class, says string) {
	t.Helper()
	for _, x := range find(parsePage(t, w), "div", "id") {
		if attr(x, "id") == "outcome" {
			return attr(x, "class"), text(x)
		}
	}
	return "", ""
}

// isOut is whether the page says that the visitor is opted out.
func isOut(t *testing.T, w *httptest.ResponseRecorder) bool {
	t.Helper()
	for _, x := range find(parsePage(t, w), "p", "data-opted-out") {
		return attr(x, "data-opted-out") == "true"
	}
	t.Fatalf("no state on the page: %s", w.Body)
	return false
}

const mineToo = "kith_id=abc123"

// TestPagesAreSafe: no page can be framed, read by others, or made to run or load
// anything that is not ours.
func TestPagesAreSafe(t *testing.T) {
	r := newRig(t)
	pages := []*httptest.ResponseRecorder{
		r.visit("GET", "/optout", ""), r.visit("GET", "/choices", ""), r.visit("GET", "/choices?client=demo", "", "Cookie", mineToo),
		r.visit("GET", "/choices?client=nobody", ""), r.submit("/optout", "do=out"), r.visit("POST", "/optout", "do=out", "Content-Type", "text/plain"),
		r.submit("/choices?client=demo", "do=erase"), r.visit("GET", "/optout?lang=%22%3E%3Cscript%3E&client=%3Cscript%3E", ""),
	}
	for i, w := range pages {
		h := w.Header()
		for name, want := range map[string]string{
			"X-Frame-Options": "DENY", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin", "Cache-Control": "no-store",
			"Content-Type": "text/html; charset=utf-8", "Cross-Origin-Resource-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin",
			"Access-Control-Allow-Origin": "",
		} {
			if got := h.Get(name); got != want {
				t.Errorf("page %d: %s is %q", i, name, got)
			}
		}
		csp := h.Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "frame-ancestors 'none'", "form-action 'self'", "base-uri 'none'", "script-src 'self'", "style-src 'self'"} {
			if !strings.Contains(csp, want) {
				t.Errorf("page %d: no %s in %s", i, want, csp)
			}
		}
		if strings.Contains(csp, "unsafe") {
			t.Errorf("page %d: %s", i, csp)
		}
		n := parsePage(t, w)
		for x := range n.Descendants() {
			for _, a := range x.Attr {
				if strings.HasPrefix(a.Key, "on") || a.Key == "style" {
					t.Errorf("page %d: %s has %s", i, x.Data, a.Key)
				}
				if (a.Key == "src" || a.Key == "href" || a.Key == "action") && (strings.Contains(a.Val, "//") || strings.Contains(a.Val, ":")) {
					t.Errorf("page %d: %s leads to %s", i, x.Data, a.Val)
				}
			}
		}
		if scripts := find(n, "script", ""); len(scripts) != 1 || attr(scripts[0], "src") != "pages/people.js" || scripts[0].FirstChild != nil {
			t.Errorf("page %d: %d scripts", i, len(scripts))
		}
		if len(find(n, "style", "")) != 0 {
			t.Errorf("page %d has a style in it", i)
		}
	}
	for path, kind := range map[string]string{"/pages/people.css": "text/css; charset=utf-8", "/pages/people.js": "text/javascript; charset=utf-8"} {
		w := r.visit("GET", path, "")
		if w.Code != 200 || w.Header().Get("Content-Type") != kind || w.Header().Get("X-Content-Type-Options") != "nosniff" || w.Body.Len() < 100 {
			t.Errorf("%s: %d %v", path, w.Code, w.Header())
		}
		if z := r.visit("GET", path, "", "Accept-Encoding", "gzip, br"); z.Header().Get("Content-Encoding") != "gzip" || z.Body.Len() >= w.Body.Len() || z.Header().Get("ETag") != w.Header().Get("ETag") || z.Header().Get("Vary") != "Accept-Encoding" {
			t.Errorf("%s zipped: %d bytes of %d, %v", path, z.Body.Len(), w.Body.Len(), z.Header())
		}
		if w := r.visit("GET", path, "", "If-None-Match", w.Header().Get("ETag")); w.Code != 304 || w.Body.Len() != 0 {
			t.Errorf("%s again: %d", path, w.Code)
		}
	}
}

// TestPagesAreAccessible checks what can be read off the HTML: a language, a title, one
// h1, labels and captions, no id twice, and buttons that say what they do.
func TestPagesAreAccessible(t *testing.T) {
	r := newRig(t)
	r.members[member{1, "browser:abc123"}] = []proto.SegmentID{"auto"}
	for _, w := range []*httptest.ResponseRecorder{
		r.visit("GET", "/optout", ""), r.visit("GET", "/optout", "", "Cookie", "kith_optout=1"), r.visit("GET", "/choices", "", "Cookie", mineToo),
		r.visit("GET", "/choices?client=demo&lang=de", "", "Cookie", mineToo), r.submit("/optout", "do=out"), r.submit("/choices", "do=x"),
	} {
		n := parsePage(t, w)
		for element, count := range map[string]int{"h1": 1, "main": 1, "title": 1} {
			if got := len(find(n, element, "")); got != count {
				t.Errorf("%d elements %s", got, element)
			}
		}
		if lang := attr(find(n, "html", "")[0], "lang"); lang != w.Header().Get("Content-Language") || lang == "" {
			t.Errorf("lang is %q", lang)
		}
		ids := map[string]bool{}
		for x := range n.Descendants() {
			if id := attr(x, "id"); id != "" {
				if ids[id] {
					t.Errorf("id %s is there twice", id)
				}
				ids[id] = true
			}
		}
		for x := range n.Descendants() {
			for _, name := range []string{"aria-labelledby", "aria-describedby"} {
				if ref := attr(x, name); ref != "" && !ids[ref] {
					t.Errorf("%s refers to %s, which is not there", x.Data, ref)
				}
			}
		}
		for _, input := range find(n, "input", "") {
			if kind := attr(input, "type"); kind != "hidden" && (input.Parent.Data != "label" || text(input.Parent) == "") {
				t.Errorf("an input %s has no label", attr(input, "name"))
			}
		}
		for _, set := range find(n, "fieldset", "") {
			if len(find(set, "legend", "")) != 1 {
				t.Error("a fieldset has no legend")
			}
		}
		for _, table := range find(n, "table", "") {
			if len(find(table, "caption", "")) != 1 || len(find(table, "th", "scope")) == 0 {
				t.Error("a table has no caption or headings")
			}
		}
		for _, b := range append(find(n, "button", ""), find(n, "a", "")...) {
			if text(b) == "" {
				t.Errorf("a %s says nothing", b.Data)
			}
		}
		live := false
		for _, p := range find(n, "p", "aria-live") {
			live = live || attr(p, "id") == "live" && attr(p, "role") == "status"
		}
		if !live || !ids["main"] {
			t.Error("no live region, or nothing to skip to")
		}
	}
}

// TestWordsAreWhole: every text is there in every language.
func TestWordsAreWhole(t *testing.T) {
	languages := gateway.Languages()
	for _, w := range languages {
		v := reflect.ValueOf(w)
		for i := range v.NumField() {
			f, name := v.Field(i), v.Type().Field(i).Name
			switch f.Kind() {
			case reflect.String:
				if f.String() == "" {
					t.Errorf("%s: %s is empty", w.Lang, name)
				}
			case reflect.Map:
				keys := func(m reflect.Value) (out []string) {
					for _, k := range m.MapKeys() {
						out = append(out, k.String())
						if m.MapIndex(k).String() == "" {
							t.Errorf("%s: %s has an empty text for %s", w.Lang, name, k)
						}
					}
					slices.Sort(out)
					return out
				}
				if d := cmp.Diff(keys(reflect.ValueOf(languages[0]).Field(i)), keys(f)); d != "" {
					t.Errorf("%s: %s: %s", w.Lang, name, d)
				}
			}
		}
	}
}

func TestLanguages(t *testing.T) {
	r := newRig(t)
	for _, tt := range []struct{ query, accepted, want string }{
		{"", "", "en"}, {"", "de", "de"}, {"", "de-CH,fr;q=0.8", "de"}, {"", "fr, en;q=0.5, de;q=0.7", "de"}, {"", "de;q=0, en", "en"}, {"", "fr", "en"},
		{"", "de;q=x,en;q=0.1", "en"}, {"", "DE", "de"}, {"", "*", "en"}, {"", ";;;,,,;q=", "en"}, {"", strings.Repeat("xx,", 10_000) + "de", "en"},
		{"?lang=de", "en", "de"}, {"?lang=en", "de", "en"}, {"?lang=xx", "de", "de"}, {"?lang=%3Cb%3E", "", "en"},
	} {
		w := r.visit("GET", "/optout"+tt.query, "", "Accept-Language", tt.accepted)
		if got := w.Header().Get("Content-Language"); got != tt.want || attr(find(parsePage(t, w), "html", "")[0], "lang") != tt.want || !strings.Contains(w.Header().Get("Vary"), "Accept-Language") {
			t.Errorf("%+v: %s", tt, got)
		}
	}
	w := r.visit("GET", "/choices?client=demo&lang=de", "")
	links := 0
	for _, a := range find(parsePage(t, w), "a", "hreflang") {
		links++
		u, err := url.Parse(attr(a, "href"))
		if err != nil || u.Query().Get("client") != "demo" || u.Query().Get("lang") != attr(a, "hreflang") {
			t.Errorf("a language's link: %s", attr(a, "href"))
		}
	}
	if links != 2 {
		t.Errorf("%d links to languages", links)
	}
}

// TestOptOutPage: one click, without script, and how things stand.
func TestOptOutPage(t *testing.T) {
	r := newRig(t)
	w := r.visit("GET", "/optout", "", "Cookie", mineToo)
	if w.Code != 200 || isOut(t, w) || len(cookies(w)) != 0 {
		t.Errorf("%d %v", w.Code, w.Header())
	}
	w = r.submit("/optout", "do=out", "Cookie", mineToo)
	class, says := outcomeOf(t, w)
	if c := cookies(w); w.Code != 200 || class != "good" || !isOut(t, w) || c["kith_optout"].Value != "1" || c["kith_id"].MaxAge >= 0 {
		t.Errorf("%d %s %v", w.Code, says, w.Header())
	}
	if !strings.Contains(says, `"signature":`) {
		t.Errorf("no receipt: %s", says)
	}
	r.submit("/optout", "do=out&everywhere=1", "Cookie", "kith_id=abc124")
	if d := cmp.Diff([]string{"optout browser:abc123 false", "optout browser:abc124 true"}, r.graph.cuts); d != "" {
		t.Error(d)
	}
	for header, want := range map[string]string{"Sec-GPC": "Global Privacy Control", "DNT": "Do Not Track"} {
		w = r.visit("GET", "/optout", "", header, "1")
		if !isOut(t, w) || !strings.Contains(w.Body.String(), "by "+want) || len(find(parsePage(t, w), "form", "")) != 1 {
			t.Errorf("%s: %s", header, w.Body)
		}
	}
	w = r.visit("GET", "/optout", "", "Cookie", "kith_optout=1")
	if !isOut(t, w) || cookies(w)["kith_optout"].Value != "1" {
		t.Errorf("with the cookie: %v", w.Header())
	}
	w = r.submit("/optout", "do=in", "Cookie", "kith_optout=1")
	if c := cookies(w)["kith_optout"]; w.Code != 200 || isOut(t, w) || c.MaxAge >= 0 {
		t.Errorf("in: %d %v", w.Code, c)
	}
	w = r.submit("/optout", "do=in", "Cookie", "kith_optout=1", "Sec-GPC", "1")
	if _, says := outcomeOf(t, w); !isOut(t, w) || !strings.Contains(says, "all the same") {
		t.Errorf("in, under GPC: %s", says)
	}
	r.graph.cutErr = proto.Errorf(proto.CodeOverloaded, "full of /secret/paths")
	w = r.submit("/optout", "do=out", "Cookie", "kith_id=abc125")
	class, says = outcomeOf(t, w)
	if c := cookies(w); w.Code != 503 || class != "bad" || !isOut(t, w) || c["kith_optout"].Value != "1" || c["kith_id"] != nil || strings.Contains(w.Body.String(), "secret") || w.Header().Get("Retry-After") == "" {
		t.Errorf("not cut: %d %s %v", w.Code, says, w.Header())
	}
	// What was not cut can be tried again, then and later, and does not come back.
	const uncut = "kith_id=abc125; kith_optout=1"
	r.members[member{2, "browser:abc125"}] = []proto.SegmentID{"auto"}
	forms := func(w *httptest.ResponseRecorder) (ids []string) {
		for _, id := range []string{"out", "in"} {
			if strings.Contains(w.Body.String(), `id="`+id+`"`) {
				ids = append(ids, id)
			}
		}
		return ids
	}
	if d := cmp.Diff([]string{"out", "in"}, forms(w)); d != "" {
		t.Errorf("after a cut that failed: %s", d)
	}
	if d := cmp.Diff([]string{"out", "in"}, forms(r.visit("GET", "/optout", "", "Cookie", uncut))); d != "" {
		t.Errorf("later: %s", d)
	}
	r.graph.cutErr = nil
	if w = r.submit("/optout", "do=in", "Cookie", uncut); cookies(w)["kith_id"].MaxAge >= 0 {
		t.Errorf("an identity that was to be cut is taken up again: %v", w.Header())
	}
	before := len(r.graph.cuts)
	w = r.submit("/optout", "do=out", "Cookie", uncut)
	if class, says = outcomeOf(t, w); class != "good" || len(r.graph.cuts) != before+1 || !slices.Equal(forms(w), []string{"in"}) {
		t.Errorf("tried again: %s %v, forms %v", says, r.graph.cuts, forms(w))
	}
}

// TestOptOutPageWayIn: who is out by the identity alone, as after an opt-out in another
// place, has the button for the opposite, and it works.
func TestOptOutPageWayIn(t *testing.T) {
	r := newRig(t)
	r.graph.out["browser:abc123"] = &proto.OptOutState{OptedOut: true, Final: true}
	w := r.visit("GET", "/optout", "", "Cookie", mineToo)
	if !isOut(t, w) || !strings.Contains(w.Body.String(), `id="in"`) {
		t.Errorf("no way in: %s", w.Body)
	}
	if w = r.submit("/optout", "do=in", "Cookie", mineToo); isOut(t, w) || !slices.Equal(r.graph.cuts, []string{"optin browser:abc123"}) {
		t.Errorf("not in: %v %s", r.graph.cuts, w.Body)
	}
	if w = r.visit("GET", "/optout", "", "Cookie", mineToo); strings.Contains(w.Body.String(), `id="in"`) {
		t.Error("a way in for who is in")
	}
}

// TestTakeBackOfSeveral: of a browser with several identities a trait goes from each.
func TestTakeBackOfSeveral(t *testing.T) {
	r := newRig(t)
	w := r.visit("POST", "/v1/choices", `{"client":"acme","remove":["plan"]}`, "Content-Type", "application/json", "Cookie", mineToo+"; kith_id=abc124")
	var got []proto.Identity
	for _, x := range r.traits {
		if x.Client != 2 || len(x.Set) != 1 || x.Set[0].Key != "plan" || x.Set[0].Value.Text != "" {
			t.Errorf("%+v", x)
		}
		got = append(got, x.Identity)
	}
	if slices.Sort(got); w.Code != 200 || !strings.Contains(w.Body.String(), `"position"`) || !slices.Equal(got, []proto.Identity{"browser:abc123", "browser:abc124"}) {
		t.Errorf("%d %s: of %v", w.Code, w.Body, got)
	}
}

// TestChoicesPage: what is held is shown, of whom it is asked for.
func TestChoicesPage(t *testing.T) {
	r := newRig(t)
	r.members[member{2, "browser:abc123"}] = []proto.SegmentID{"auto", "moto"}
	w := r.visit("GET", "/choices", "", "Cookie", mineToo)
	body := w.Body.String()
	if w.Code != 200 || !strings.Contains(body, "choices?client=acme&amp;lang=en") || strings.Contains(body, "client=demo") || strings.Contains(body, "client=other") {
		t.Errorf("%d %s", w.Code, body)
	}
	w = r.visit("GET", "/choices?client=acme", "", "Cookie", mineToo)
	if body = w.Body.String(); w.Code != 200 || !strings.Contains(body, "<dd>moto</dd>") || !strings.Contains(body, "v1/me?client=acme") {
		t.Errorf("%d %s", w.Code, body)
	}
	if w = r.visit("GET", "/choices?client=demo", "", "Cookie", mineToo); strings.Contains(w.Body.String(), "moto") {
		t.Error("one client's page shows what another one holds")
	}
	for _, name := range []string{"nobody", "a.*", "%00", strings.Repeat("x", 500)} {
		w = r.visit("GET", "/choices?client="+name, "", "Cookie", mineToo)
		if class, _ := outcomeOf(t, w); w.Code != 400 || class != "bad" || !strings.Contains(w.Body.String(), "choices?client=acme") {
			t.Errorf("client %.20s: %d %s", name, w.Code, w.Body)
		}
	}
	if w = r.visit("GET", "/choices", "", "Cookie", "kith_id=new1"); strings.Contains(w.Body.String(), "client=") {
		t.Error("clients are named to a stranger")
	}
	// An opt-out signal hides nothing of what is held, and there is nothing to say.
	w = r.visit("GET", "/choices?client=acme", "", "Cookie", mineToo, "Sec-GPC", "1")
	if body = w.Body.String(); !strings.Contains(body, "<dd>moto</dd>") || strings.Contains(body, "age_band") {
		t.Errorf("under GPC: %s", body)
	}
	w = r.submit("/choices?client=acme", "do=erase", "Cookie", mineToo)
	if class, says := outcomeOf(t, w); w.Code != 200 || class != "good" || !strings.Contains(says, `"action": "erase"`) || cookies(w)["kith_id"].MaxAge >= 0 || strings.Contains(w.Body.String(), "moto") {
		t.Errorf("%d %s %v", w.Code, says, w.Header())
	}
	if d := cmp.Diff([]string{"erase browser:abc123 all"}, r.graph.cuts); d != "" {
		t.Error(d)
	}
}

func traitsOf(x proto.Traits) map[string]string {
	out := map[string]string{}
	for _, p := range x.Set {
		out[p.Key] = p.Value.Text
	}
	return out
}

// TestDeclaration: forms and JSON say the same, of one client's browser.
func TestDeclaration(t *testing.T) {
	for _, tt := range []struct {
		name, target, kind, body string
		status                   int
		want                     map[string]string // nil: nothing is stored
	}{
		{"JSON", "/v1/choices", "application/json", `{"client":"acme","age_band":"25-34","gender":"other"}`, 200, map[string]string{"age_band": "25-34", "gender": "other"}},
		{"JSON, one of them", "/v1/choices", "application/json", `{"client":"acme","gender":"female","age_band":null}`, 200, map[string]string{"gender": "female"}},
		{"JSON as text", "/v1/choices", "text/plain", `{"client":"acme","gender":"male"}`, 200, map[string]string{"gender": "male"}},
		{"JSON as curl sends it", "/v1/choices", "application/x-www-form-urlencoded", ` {"client":"acme","gender":"male"}`, 200, map[string]string{"gender": "male"}},
		{"taken back", "/v1/choices", "application/json", `{"client":"acme","age_band":""}`, 200, map[string]string{"age_band": ""}},
		{"removed", "/v1/choices", "application/json", `{"client":"acme","remove":["plan","gender"],"gender":"male"}`, 200, map[string]string{"plan": "", "gender": "male"}},
		{"a form", "/v1/choices", "application/x-www-form-urlencoded", `client=acme&age_band=65%2B&gender=`, 200, map[string]string{"age_band": "65+", "gender": ""}},
		{"the page's form", "/choices?client=acme", "application/x-www-form-urlencoded", `do=save&age_band=18-24&gender=female`, 200, map[string]string{"age_band": "18-24", "gender": "female"}},
		{"the page's form, another client in it", "/choices?client=acme", "application/x-www-form-urlencoded", `do=save&client=demo&gender=female`, 200, map[string]string{"gender": "female"}},
		{"the page's form, traits to remove", "/choices?client=acme", "application/x-www-form-urlencoded", `do=save&remove=plan&remove=city`, 200, map[string]string{"plan": "", "city": ""}},
		{"no client", "/v1/choices", "application/json", `{"age_band":"25-34"}`, 400, nil},
		{"an unknown client", "/v1/choices", "application/json", `{"client":"nobody","age_band":"25-34"}`, 400, nil},
		{"no such band", "/v1/choices", "application/json", `{"client":"acme","age_band":"12"}`, 400, nil},
		{"no such gender", "/v1/choices", "application/json", `{"client":"acme","gender":"<b>"}`, 400, nil},
		{"nothing", "/v1/choices", "application/json", `{"client":"acme"}`, 400, nil},
		{"more than that", "/v1/choices", "application/json", `{"client":"acme","gender":"male","vip":true}`, 400, nil},
		{"an import's trait", "/v1/choices", "application/json", `{"client":"acme","remove":["import.crm"]}`, 400, nil},
		{"a trait of control characters", "/v1/choices", "application/json", `{"client":"acme","remove":["a\u0000"]}`, 400, nil},
		{"more traits than are looked at", "/v1/choices", "application/json", `{"client":"acme","remove":[` + listOfNames(65) + `,"a\u0000"]}`, 413, nil},
		{"the page's form, likewise", "/choices?client=acme", "application/x-www-form-urlencoded", `do=save` + strings.NewReplacer(`"`, "", ",", "").Replace(strings.ReplaceAll(listOfNames(65), `"t`, `&remove=t`)) + `&remove=%00`, 413, nil},
		{"a picture", "/v1/choices", "image/png", `x`, 415, nil},
		{"a broken form", "/v1/choices", "application/x-www-form-urlencoded", `gender=%zz`, 400, nil},
		{"a large form", "/v1/choices", "application/x-www-form-urlencoded", strings.Repeat("a=b&", 20_000), 413, nil},
		{"the page's form, no client", "/choices", "application/x-www-form-urlencoded", `do=save&gender=male`, 400, nil},
		{"the page's form, not a form", "/choices?client=acme", "application/json", `{}`, 415, nil},
		{"the page's form, nothing to do", "/choices?client=acme", "application/x-www-form-urlencoded", `gender=male`, 400, nil},
	} {
		r := newRig(t)
		w := r.visit("POST", tt.target, tt.body, "Content-Type", tt.kind, "Sec-Fetch-Site", "same-origin", "Cookie", mineToo)
		if w.Code != tt.status {
			t.Errorf("%s: %d %s", tt.name, w.Code, w.Body)
		}
		if tt.want == nil {
			if len(r.traits) != 0 {
				t.Errorf("%s: %v was stored", tt.name, r.traits)
			}
			continue
		}
		if len(r.traits) != 1 || r.traits[0].Client != 2 || r.traits[0].Identity != "browser:abc123" {
			t.Errorf("%s: %+v", tt.name, r.traits)
			continue
		}
		if d := cmp.Diff(tt.want, traitsOf(r.traits[0])); d != "" {
			t.Errorf("%s: %s", tt.name, d)
		}
		if set := r.traits[0].Set; set[0].Value.String() != "" && set[len(set)-1].Value.String() == "" {
			t.Errorf("%s: what is removed makes no room for what is set: %v", tt.name, set)
		}
	}
	// A browser without an identity gets one with what it says.
	r := newRig(t)
	w := r.visit("POST", "/v1/choices", `{"client":"acme","gender":"male"}`, "Content-Type", "application/json", "Sec-Fetch-Site", "same-origin")
	if c := cookies(w)["kith_id"]; w.Code != 200 || c == nil || len(r.traits) != 1 || r.traits[0].Identity.Value() != c.Value {
		t.Errorf("a first visit: %d %v %+v", w.Code, w.Header(), r.traits)
	}
	// Who takes something back that nobody knows gets none.
	r = newRig(t)
	if w = r.visit("POST", "/v1/choices", `{"client":"acme","gender":""}`, "Content-Type", "application/json"); w.Code != 200 || len(cookies(w)) != 0 || len(r.traits) != 0 {
		t.Errorf("taken back by a stranger: %d %v", w.Code, w.Header())
	}
}

// TestDeclarationUnderSignals: nothing is stored, but may be taken back.
func TestDeclarationUnderSignals(t *testing.T) {
	for _, headers := range [][]string{{"Sec-GPC", "1"}, {"DNT", "1"}, {"Cookie", mineToo + "; kith_optout=1"}} {
		r := newRig(t)
		with := append([]string{"Cookie", mineToo, "Content-Type", "application/json", "Sec-Fetch-Site", "same-origin"}, headers...)
		if w := r.visit("POST", "/v1/choices", `{"client":"acme","gender":"male"}`, with...); w.Code != 403 || code(w) != "opted_out" || len(r.traits) != 0 || cookies(w)["kith_id"] != nil {
			t.Errorf("%v: %d %s", headers, w.Code, w.Body)
		}
		if w := r.visit("POST", "/v1/choices", `{"client":"acme","gender":""}`, with...); w.Code != 200 || len(r.traits) != 1 {
			t.Errorf("%v: taken back: %d %s", headers, w.Code, w.Body)
		}
		if w := r.submit("/choices?client=acme", "do=save&gender=male", with[len(with)-2:]...); w.Code != 403 || len(r.traits) != 1 {
			t.Errorf("%v: the page: %d", headers, w.Code)
		}
	}
	r := newRig(t)
	r.graph.out["browser:abc123"] = &proto.OptOutState{OptedOut: true, Final: true}
	if w := r.visit("POST", "/v1/choices", `{"client":"acme","gender":"male"}`, "Content-Type", "application/json", "Cookie", mineToo); w.Code != 403 || len(r.traits) != 0 || len(cookies(w)) != 0 {
		t.Errorf("an opted-out identity: %d %s", w.Code, w.Body)
	}
}

// TestChildren: who says to be one is opted out, everywhere, and nothing of what
// they said is stored, whatever else they said.
func TestChildren(t *testing.T) {
	for name, send := range map[string]func(*rig) *httptest.ResponseRecorder{
		"JSON": func(r *rig) *httptest.ResponseRecorder {
			return r.visit("POST", "/v1/choices", `{"client":"acme","age_band":"under-13","gender":"male"}`, "Content-Type", "application/json", "Cookie", mineToo)
		},
		"JSON, no client": func(r *rig) *httptest.ResponseRecorder {
			return r.visit("POST", "/v1/choices", `{"age_band":"under-13"}`, "Content-Type", "application/json", "Cookie", mineToo)
		},
		"form": func(r *rig) *httptest.ResponseRecorder {
			return r.submit("/choices?client=acme", "do=save&age_band=under-13&gender=male", "Cookie", mineToo)
		},
		"form, under GPC": func(r *rig) *httptest.ResponseRecorder {
			return r.submit("/choices?client=acme", "do=save&age_band=under-13&gender=male", "Cookie", mineToo, "Sec-GPC", "1")
		},
	} {
		r := newRig(t)
		r.join(2, 2, proto.Link{A: "browser:abc123", B: "account:kid1", Confidence: 1})
		w := send(r)
		if c := cookies(w); w.Code != 200 || c["kith_optout"] == nil || c["kith_optout"].Value != "1" || c["kith_id"] == nil || c["kith_id"].MaxAge >= 0 {
			t.Errorf("%s: %d %v", name, w.Code, w.Header())
		}
		if len(r.traits) != 0 || len(r.taken()) != 0 {
			t.Errorf("%s: stored %v", name, r.traits)
		}
		if d := cmp.Diff([]string{"optout browser:abc123 true"}, r.graph.cuts); d != "" {
			t.Errorf("%s: %s", name, d)
		}
		if r.graph.out["account:kid1"] == nil {
			t.Errorf("%s: the account is not opted out", name)
		}
		if name == "form" && (!strings.Contains(w.Body.String(), "Nothing of your answer was kept") || !isOut(t, w)) {
			t.Errorf("%s: %s", name, w.Body)
		}
	}
	r := newRig(t)
	r.graph.cutErr = proto.Errorf(proto.CodeOverloaded, "full")
	w := r.submit("/choices?client=acme", "do=save&age_band=under-13", "Cookie", mineToo)
	if c := cookies(w); w.Code != 503 || c["kith_optout"] == nil || c["kith_id"] != nil || !isOut(t, w) {
		t.Errorf("not cut: %d %v", w.Code, w.Header())
	}
}

var tokenField = regexp.MustCompile(`name="token" value="([^"]+)"`)

// TestForgedForms: who may not change anything does not, on any route that does.
func TestForgedForms(t *testing.T) {
	routes := []struct{ method, target, body, kind string }{
		{"POST", "/optout", "do=out", "application/x-www-form-urlencoded"},
		{"POST", "/optout", "do=in", "application/x-www-form-urlencoded"},
		{"POST", "/choices?client=acme", "do=save&gender=male", "application/x-www-form-urlencoded"},
		{"POST", "/choices?client=acme", "do=save&age_band=under-13", "application/x-www-form-urlencoded"},
		{"POST", "/choices?client=acme", "do=erase", "application/x-www-form-urlencoded"},
		{"POST", "/v1/choices", "client=acme&gender=male", "application/x-www-form-urlencoded"},
		{"POST", "/v1/choices", `{"client":"acme","gender":"male"}`, "text/plain"},
		{"POST", "/v1/choices", `{"client":"acme","age_band":"under-13"}`, "application/json"},
		{"POST", "/v1/optout", "", ""},
		{"POST", "/v1/optin", "", ""},
		{"DELETE", "/v1/me", "", ""},
	}
	for _, rt := range routes {
		for _, from := range []struct {
			name    string
			headers []string
		}{
			{"another site", []string{"Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"}},
			{"another site, in a frame", []string{"Sec-Fetch-Site", "cross-site", "Origin", "http://example.com", "Sec-Fetch-Dest", "iframe"}},
			{"another site, unsaid by whom", []string{"Sec-Fetch-Site", "cross-site"}},
			{"an old browser, another site", []string{"Origin", "https://evil.example"}},
			{"an old browser, a sandbox", []string{"Origin", "null"}},
			{"an old browser, a name that ends the same", []string{"Origin", "https://evilexample.com"}},
			{"an old browser, ours as a user", []string{"Origin", "https://example.com@evil.example"}},
			{"an old browser, ours as a part", []string{"Origin", "https://example.com.evil.example"}},
			{"a word that is none", []string{"Sec-Fetch-Site", "same-origin, cross-site"}},
			{"one of the public suffix", []string{"Origin", "https://com"}},
		} {
			r := newRig(t)
			w := r.visit(rt.method, rt.target, rt.body, append([]string{"Content-Type", rt.kind, "Cookie", mineToo}, from.headers...)...)
			if w.Code != 403 || len(r.graph.cuts) != 0 || len(r.traits) != 0 || len(cookies(w)) != 0 {
				t.Errorf("%s %s %s from %s: %d, cuts %v, traits %v, cookies %v", rt.method, rt.target, rt.body, from.name, w.Code, r.graph.cuts, r.traits, cookies(w))
			}
		}
	}
	// Where a browser says nothing of where a form comes from, the token does.
	token := func(r *rig, cookie string) string {
		m := tokenField.FindStringSubmatch(r.visit("GET", "/optout", "", "Cookie", cookie).Body.String())
		if m == nil {
			t.Fatal("no token on the page")
		}
		return m[1]
	}
	for _, rt := range routes[:7] {
		for _, tt := range []struct {
			name, cookie string
			ok           bool
		}{{"its own", mineToo, true}, {"a stranger's", "", false}, {"another browser's", "kith_id=abc124", false}, {"one of several's", mineToo + "; kith_id=abc124", false}, {"none", "none", false}} {
			r := newRig(t)
			body := rt.body
			if tt.cookie != "none" {
				body += "&token=" + token(r, tt.cookie)
			}
			if rt.kind == "text/plain" {
				body = rt.body
			}
			w := r.visit(rt.method, rt.target, body, "Content-Type", rt.kind, "Cookie", mineToo)
			if want := tt.ok && rt.kind != "text/plain"; (w.Code == 200) != want || !want && (w.Code != 403 || len(r.graph.cuts)+len(r.traits)+len(cookies(w)) != 0) {
				t.Errorf("%s %s with the token %s: %d %v", rt.target, rt.body, tt.name, w.Code, r.graph.cuts)
			}
		}
	}
	r := newRig(t)
	old := token(r, mineToo)
	late := newRig(t, func(c *gateway.Config) { c.Now = func() time.Time { return now.Add(13 * time.Hour) } })
	if w := late.visit("POST", "/choices?client=acme", "do=erase&token="+old, "Content-Type", "application/x-www-form-urlencoded", "Cookie", mineToo); w.Code != 403 {
		t.Errorf("an old token: %d", w.Code)
	}
	// Addresses in numbers are sites of their own.
	r = newRig(t)
	for origin, status := range map[string]int{"http://192.168.0.1": 403, "http://1.10.0.0.1": 403, "http://10.0.0.1:8080": 200, "http://[::1]": 403} {
		if w := r.visit("POST", "http://10.0.0.1/v1/optout", "", "Origin", origin); w.Code != status {
			t.Errorf("from %s: %d", origin, w.Code)
		}
	}
	// A page of the client's own, on another site, may declare for its client alone.
	r = newRig(t, func(c *gateway.Config) {
		c.Origins = map[proto.ClientName][]string{"acme": {"https://acme.example"}}
	})
	for body, status := range map[string]int{`{"client":"acme","gender":"male"}`: 200, `{"client":"demo","gender":"male"}`: 403} {
		w := r.visit("POST", "/v1/choices", body, "Content-Type", "application/json", "Sec-Fetch-Site", "cross-site", "Origin", "https://acme.example", "Cookie", mineToo)
		if w.Code != status || (w.Header().Get("Access-Control-Allow-Origin") != "") != (status == 200) {
			t.Errorf("%s: %d %v", body, w.Code, w.Header())
		}
	}
	if w := r.visit("POST", "/choices?client=acme", "do=erase", "Content-Type", "application/x-www-form-urlencoded", "Sec-Fetch-Site", "cross-site", "Origin", "https://acme.example", "Cookie", mineToo); w.Code != 403 || len(r.graph.cuts) != 0 {
		t.Errorf("a page's form from a client's site: %d", w.Code)
	}
}

// TestNothingByPicture: what a page of others can have a browser GET changes nothing.
func TestNothingByPicture(t *testing.T) {
	r := newRig(t)
	for _, target := range []string{
		"/v1/optout", "/v1/optin", "/v1/choices?client=acme&gender=male", "/optout?do=out", "/optout?do=in", "/choices?client=acme&do=erase", "/choices?client=acme&do=save&gender=male", "/v1/me?client=acme",
	} {
		for _, method := range []string{"GET", "HEAD"} {
			w := r.visit(method, target, "", "Cookie", mineToo, "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Dest", "image", "Sec-Fetch-Mode", "no-cors")
			if len(r.graph.cuts)+len(r.traits)+len(r.taken()) != 0 || len(cookies(w)) != 0 {
				t.Fatalf("%s %s: %d, %v %v", method, target, w.Code, r.graph.cuts, cookies(w))
			}
			if h := w.Header(); w.Code == http.StatusOK && (h.Get("Cross-Origin-Resource-Policy") != "same-origin" || h.Get("Access-Control-Allow-Origin") != "") {
				t.Errorf("%s %s may be read: %v", method, target, h)
			}
		}
	}
}

// Whoever opts out is told that it is done once it is, and comes to the receipt however
// long that takes.
func TestOwnCutThatTakesLong(t *testing.T) {
	r := newRig(t, func(c *gateway.Config) { c.FinalWait = 20 * time.Second })
	for _, x := range [][3]string{{"POST", "/v1/optout", ""}, {"POST", "/optout", "do=out"}, {"DELETE", "/v1/me", ""}, {"POST", "/choices", "do=erase"}} {
		r.graph.slow = true
		time.AfterFunc(150*time.Millisecond, func() {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.graph.slow = false
		})
		id := fmt.Sprint("kith_id=slow", len(r.graph.cuts))
		r.members[member{1, proto.Identity("browser:" + id[len("kith_id="):])}] = nil
		headers := append([]string{"Cookie", id}, ownPage...)
		w := r.visit(x[0], x[1], x[2], headers...)
		if c := cookies(w)["kith_id"]; w.Code != 200 || !strings.Contains(html.UnescapeString(w.Body.String()), `"signature":`) || c == nil || c.MaxAge >= 0 {
			t.Errorf("%v: %d %s", x, w.Code, w.Body)
		}
	}

	// What statistical ids know is waited for too, and of it no receipt is promised for later.
	r, _ = guessing(t, func(c *gateway.Config) { c.FinalWait = 20 * time.Second })
	r.graph.slow = true
	time.AfterFunc(150*time.Millisecond, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.graph.slow = false
	})
	w := r.submit("/optout", "do=out", someone...)
	if _, says := outcomeOf(t, w); !strings.Contains(says, `"signature":`) {
		t.Errorf("of statistical ids: %s", says)
	}
	r, _ = guessing(t)
	r.graph.slow = true
	w = r.submit("/optout", "do=out", someone...)
	if _, says := outcomeOf(t, w); !strings.Contains(says, "being removed") || strings.Contains(says, "receipt") {
		t.Errorf("of statistical ids, not final: %s", says)
	}

	r = newRig(t)
	r.graph.slow = true
	r.members[member{1, "browser:abc123"}] = []proto.SegmentID{"auto"}
	w = r.submit("/optout", "do=out", "Cookie", mineToo)
	_, says := outcomeOf(t, w)
	if c := cookies(w); w.Code != 200 || c["kith_optout"].Value != "1" || c["kith_id"] != nil || !strings.Contains(says, "being removed") || strings.Contains(says, "signature") {
		t.Errorf("not final: %d %s %v", w.Code, says, c)
	}
	const both = mineToo + "; kith_optout=1"
	if w = r.visit("GET", "/v1/optout/status", "", "Cookie", both); !strings.Contains(w.Body.String(), `"final":false`) {
		t.Errorf("its status: %s", w.Body)
	}
	if w = r.visit("GET", "/optout", "", "Cookie", both); strings.Contains(w.Body.String(), "signature") || strings.Contains(w.Body.String(), "has been removed") {
		t.Errorf("the page before it is final: %s", w.Body)
	}
	r.graph.slow = false
	if w = r.visit("GET", "/v1/optout/status", "", "Cookie", both, "Sec-Fetch-Site", "same-origin"); !strings.Contains(w.Body.String(), `"final":true,"receipt":{`) {
		t.Errorf("its status: %s", w.Body)
	}
	w = r.visit("GET", "/v1/optout/status?client=demo", "", "Cookie", both, "Sec-Fetch-Site", "cross-site", "Origin", "https://elsewhere.example")
	if strings.Contains(w.Body.String(), "identity_hash") || !strings.Contains(w.Body.String(), `"final":true`) {
		t.Errorf("its status for another site: %s", w.Body)
	}
	// A second identity, that was not cut, is not passed over.
	w = r.visit("GET", "/optout", "", "Cookie", both+"; kith_id=abc124")
	if strings.Contains(w.Body.String(), "has been removed") || !strings.Contains(w.Body.String(), `id="out"`) {
		t.Errorf("the page of two identities: %s", w.Body)
	}
	w = r.visit("GET", "/optout", "", "Cookie", both)
	if _, says := outcomeOf(t, w); !strings.Contains(says, `"signature":`) || strings.Contains(w.Body.String(), `id="out"`) || cookies(w)["kith_id"].MaxAge >= 0 {
		t.Errorf("the page later: %s", w.Body)
	}
	w = r.visit("POST", "/v1/optout", "", "Cookie", both)
	if x := cutOf(t, w.Body.Bytes()); !x.Final || x.Receipt == nil || cookies(w)["kith_id"].MaxAge >= 0 {
		t.Errorf("asked once more: %s %v", w.Body, w.Header())
	}
	r.graph.slow = true
	w = r.submit("/choices", "do=erase", "Cookie", "kith_id=abc125")
	if _, says := outcomeOf(t, w); strings.Contains(says, "has been erased") || !strings.Contains(says, "being erased") {
		t.Errorf("an erasure that is not final: %s", says)
	}
}

// The page of what is held denies nothing that it did not look up.
func TestChoicesDenyNothing(t *testing.T) {
	r := newRig(t)
	const none = "Nobody holds anything"
	r.members[member{2, "browser:abc124"}] = []proto.SegmentID{"auto"}
	two := []string{"Cookie", mineToo + "; kith_id=abc124"}
	w := r.visit("GET", "/choices", "", two...)
	if !strings.Contains(w.Body.String(), "client=acme") || strings.Contains(w.Body.String(), none) {
		t.Errorf("of two identities: %s", w.Body)
	}
	if w = r.visit("GET", "/choices?client=acme", "", two...); strings.Contains(w.Body.String(), "Nothing is held") || !strings.Contains(w.Body.String(), "it is several") {
		t.Errorf("of two identities, of one client: %s", w.Body)
	}
	if w = r.visit("GET", "/choices", "", "Cookie", mineToo); !strings.Contains(w.Body.String(), none) || w.Code != 200 {
		t.Errorf("of one that nobody knows: %d %s", w.Code, w.Body)
	}
	w = r.visit("GET", "/choices", "", "Cookie", "kith_id=a1; kith_id=a2; kith_id=a3; kith_id=a4; kith_id=abc124")
	if strings.Contains(w.Body.String(), none) {
		t.Errorf("of more identities than are looked at: %s", w.Body)
	}
	many := "kith_id=abc124"
	for i := range 32 {
		many += fmt.Sprintf("; kith_id=many%d", i)
	}
	for target, form := range map[string]string{"/choices": "do=erase", "/optout": "do=out"} {
		w = newRig(t).submit(target, form, "Cookie", many) // one network may not have so many cut twice
		if _, says := outcomeOf(t, w); !strings.Contains(says, "others is not gone") || strings.Contains(says, "signature") || cookies(w)["kith_id"] != nil {
			t.Errorf("%s of more identities than are cut: %s", target, says)
		}
	}
	r.seenErr = proto.Errorf(proto.CodeUnavailable, "no owner")
	w = r.visit("GET", "/choices", "", "Cookie", "kith_id=abc124")
	if w.Code != 503 || strings.Contains(w.Body.String(), none) || !strings.Contains(w.Body.String(), "Not all can be asked") {
		t.Errorf("nobody can be asked: %d %s", w.Code, w.Body)
	}
}

// A browser that shows no kith_id, as on kith's own pages beside those of publishers, is
// not told that anything of it was removed.
func TestPagesOfNobodyRemoveNothing(t *testing.T) {
	for _, w := range gateway.Languages() {
		r := newRig(t)
		for i, x := range []struct{ target, body, want, not string }{
			{"/optout", "do=out", w.UnseenOut, w.NowOut},
			{"/choices", "do=erase", w.UnseenErased, w.Erased},
		} {
			p := r.submit(x.target+"?lang="+w.Lang, x.body)
			if class, says := outcomeOf(t, p); p.Code != 200 || class != "good" || says != x.want {
				t.Errorf("%s %s: %d %q", x.target, x.body, p.Code, says)
			}
			p = r.submit(x.target+"?lang="+w.Lang, x.body, "Cookie", fmt.Sprint("kith_id=known", i))
			if _, says := outcomeOf(t, p); !strings.HasPrefix(says, x.not) {
				t.Errorf("%s %s of one that has a cookie: %q", x.target, x.body, says)
			}
		}
		for _, where := range []string{"/choices?", "/choices?client=demo&"} {
			if body := text(parsePage(t, r.visit("GET", where+"lang="+w.Lang, ""))); !strings.Contains(body, w.NoSites) && !strings.Contains(body, w.NothingHeld) {
				t.Errorf("%s: %s", where, body)
			}
		}
		for _, s := range []string{w.NoSites, w.NothingHeld} {
			if !regexp.MustCompile(`this site's cookie|dem Cookie dieser Seite`).MatchString(s) {
				t.Errorf("it is not said where was looked: %s", s)
			}
		}
		if len(r.graph.cuts) != 2 {
			t.Errorf("cuts %v", r.graph.cuts)
		}
	}
}

// Nor is one that statistical ids may know: what was cut of those is of no browser alone.
func TestPagesOfStatisticalIDs(t *testing.T) {
	for _, w := range gateway.Languages() {
		for _, known := range []bool{false, true} {
			for _, slow := range []bool{false, true} {
				tell := func(target, body string) string {
					r, _ := guessing(t)
					if known {
						r.event("demo", someone)
					}
					r.graph.slow = slow
					_, says := outcomeOf(t, r.submit(target+"lang="+w.Lang, body, someone...))
					return says
				}
				out, erased := w.UnseenOut+" "+w.StatisticalGoing, w.UnseenErased
				if !slow {
					out = w.UnseenOut
				}
				if known && slow {
					erased = w.StatisticalGoing + " " + w.UnseenRest
				} else if known {
					erased = w.StatisticalGone + " " + w.UnseenRest
				}
				for _, x := range [][2]string{
					{out, tell("/optout?", "do=out")}, {erased, tell("/choices?", "do=erase")}, {w.NowChild + " " + out, tell("/choices?client=demo&", "do=save&age_band=under-13")},
				} {
					if !strings.HasPrefix(x[1], x[0]) {
						t.Errorf("known %t, slow %t: %q, want %q", known, slow, x[1], x[0])
					}
				}
			}
		}
	}
}

// TestChildIsToldWhatWasDone: as whoever opts out is.
func TestChildIsToldWhatWasDone(t *testing.T) {
	crowd := "kith_id=abc124"
	for i := range 32 {
		crowd += fmt.Sprintf("; kith_id=many%d", i)
	}
	for _, w := range gateway.Languages() {
		for _, tt := range []struct {
			name, cookie string
			slow         bool
			want         string
		}{
			{"done", mineToo, false, w.NowOut + " " + w.ChildLinked},
			{"not final", mineToo, true, w.NowGoing + " " + w.GoingAgain},
			{"nobody seen", "", false, w.UnseenOut},
			{"too many", crowd, false, w.NowOut + " " + w.CrowdedRest},
		} {
			r := newRig(t)
			r.graph.slow = tt.slow
			p := r.submit("/choices?client=acme&lang="+w.Lang, "do=save&age_band=under-13", "Cookie", tt.cookie)
			class, says := outcomeOf(t, p)
			says, receipt, _ := strings.Cut(says, w.ReceiptHead)
			if p.Code != 200 || class != "good" || strings.TrimSpace(says) != w.NowChild+" "+tt.want || (receipt != "") != (tt.name == "done") {
				t.Errorf("%s: %d %q, want %q", tt.name, p.Code, says, tt.want)
			}
		}
	}
}

// What is held of somebody's age and gender is to be seen and removable, also where it
// cannot be said anew or is nothing that is offered, and no form removes it unasked.
func TestHeldAgeAndGender(t *testing.T) {
	for _, tt := range []struct {
		name       string
		held       map[string]any
		headers    []string
		chosen     string // of the radio buttons
		removables string
	}{
		{"said", map[string]any{"age_band": "25-34", "gender": "male"}, nil, "age_band=25-34 gender=male", ""},
		{"nothing", nil, nil, "age_band= gender=", ""},
		{"under GPC", map[string]any{"age_band": "25-34", "gender": "male"}, []string{"Sec-GPC", "1"}, "", "age_band: 25-34, gender: male"},
		{"a band of others", map[string]any{"age_band": "40-49"}, nil, "gender=", "age_band: 40-49"},
		{"an age in years", map[string]any{"age_band": 34.0, "gender": "female"}, nil, "gender=female", "age_band: 34"},
		{"a large number", map[string]any{"spent": 1234567.0, "vip": true}, nil, "age_band= gender=", "spent: 1234567, vip: true"},
	} {
		r := newRig(t)
		r.members[member{2, "browser:abc123"}] = []proto.SegmentID{"auto"}
		r.held = map[member]map[string]any{{2, "browser:abc123"}: tt.held}
		var chosen, removables []string
		for _, input := range find(parsePage(t, r.visit("GET", "/choices?client=acme", "", append(tt.headers, "Cookie", mineToo)...)), "input", "name") {
			_, checked := attrThere(input, "checked")
			switch {
			case attr(input, "type") == "radio" && checked:
				chosen = append(chosen, attr(input, "name")+"="+attr(input, "value"))
			case attr(input, "name") == "remove":
				removables = append(removables, text(input.Parent))
			}
		}
		if got := strings.Join(chosen, " "); got != tt.chosen {
			t.Errorf("%s: chosen %q, want %q", tt.name, got, tt.chosen)
		}
		if got := strings.Join(removables, ", "); got != tt.removables {
			t.Errorf("%s: removable %q, want %q", tt.name, got, tt.removables)
		}
	}
}

// A form in which nothing is ticked says so.
func TestNothingTicked(t *testing.T) {
	r := newRig(t)
	for _, w := range gateway.Languages() {
		p := r.submit("/choices?client=acme&lang="+w.Lang, "do=save", "Cookie", mineToo)
		if class, says := outcomeOf(t, p); p.Code != 400 || class != "bad" || says != w.NothingChosen || len(r.traits) != 0 {
			t.Errorf("%d %q, stored %v", p.Code, says, r.traits)
		}
	}
}

// A page that nobody sees does not use up the way to the receipt.
func TestReceiptOutlivesPrefetch(t *testing.T) {
	r := newRig(t)
	const both = mineToo + "; kith_optout=1"
	r.graph.slow = true
	r.submit("/optout", "do=out", "Cookie", mineToo)
	r.graph.slow = false
	for _, x := range [][]string{{"HEAD"}, {"GET", "Sec-Purpose", "prefetch"}, {"GET", "Sec-Purpose", "prefetch;prerender"}, {"GET", "Purpose", "prefetch"}} {
		if w := r.visit(x[0], "/optout", "", append(x[1:], "Cookie", both)...); w.Code != 200 || cookies(w)["kith_id"] != nil {
			t.Errorf("%v: %d %v", x, w.Code, w.Header())
		}
	}
	w := r.visit("GET", "/optout", "", "Cookie", both)
	if _, says := outcomeOf(t, w); !strings.Contains(says, `"signature":`) || cookies(w)["kith_id"].MaxAge >= 0 {
		t.Errorf("the page: %s %v", says, w.Header())
	}
}

// listOfNames are names of n traits, as JSON has them in a list.
func listOfNames(n int) string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf(`"t%d"`, i)
	}
	return strings.Join(names, ",")
}

// TestWhatCannotBeShown: what came of a form is told though what is held cannot be shown,
// and a page that was only looked at does not speak of what was to be removed.
func TestWhatCannotBeShown(t *testing.T) {
	for _, w := range gateway.Languages() {
		for _, tt := range []struct {
			name, client, form string
			status             int
			class, want        string
		}{
			{"looked at", "acme", "", 503, "bad", w.NotShown},
			{"said", "acme", "do=save&gender=female", 200, "good", w.Saved + " " + w.NotShown},
			{"a child", "acme", "do=save&age_band=under-13", 200, "good", w.NowChild + " " + w.NowGoing + " " + w.GoingAgain},
			{"nothing ticked", "acme", "do=save", 400, "bad", w.NothingChosen + " " + w.NotShown},
			{"erased, of nobody's page", "nobody", "do=erase", 200, "good", w.ErasedGoing},
			{"erased", "", "do=erase", 200, "good", w.ErasedGoing},
			{"said on nobody's page", "nobody", "do=save&gender=female", 400, "bad", w.Failures[proto.CodeClient]},
			{"nobody's page", "nobody", "", 400, "bad", w.Failures[proto.CodeClient]},
		} {
			r := newRig(t)
			r.members[member{2, "browser:abc123"}] = []proto.SegmentID{"auto"}
			r.graph.slow = true // an opt-out and an erasure go on, and the browser stays named
			r.history = func() proto.NextEvents {
				return func(func(proto.Millis, *proto.EventBody) bool) (bool, error) {
					return false, proto.Errorf(proto.CodeUnavailable, "it was cut: ask again")
				}
			}
			if tt.client == "" {
				r.seenErr = proto.Errorf(proto.CodeUnavailable, "no owner")
			}
			target := "/choices?lang=" + w.Lang + "&client=" + tt.client
			var p *httptest.ResponseRecorder
			if tt.form == "" {
				p = r.visit("GET", target, "", "Cookie", mineToo)
			} else {
				p = r.submit(target, tt.form, "Cookie", mineToo)
			}
			if class, says := outcomeOf(t, p); p.Code != tt.status || class != tt.class || says != tt.want {
				t.Errorf("%s: %d %s %q, want %d %q", tt.name, p.Code, class, says, tt.status, tt.want)
			}
		}
	}
}
