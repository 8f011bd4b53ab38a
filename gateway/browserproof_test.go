package gateway_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kith/gateway"
	"kith/proto"
)

func withProofs(c *gateway.Config) { c.CookieProof = true }

// TestProofIsGivenWithAnIdentity: whoever gets a new identity gets its proof, as long as
// that and kept as it is; by it the next one, and by nothing else.
func TestProofIsGivenWithAnIdentity(t *testing.T) {
	match := "/v1/match?client=demo&partner=adx&uid=p1"
	partner := func(c *gateway.Config) {
		c.Partners = map[proto.ClientName][]gateway.Partner{"demo": {{Name: "adx"}}}
	}
	for name, ask := range map[string]func(r *rig, cookie string) *httptest.ResponseRecorder{
		"events": func(r *rig, cookie string) *httptest.ResponseRecorder {
			return r.visit("POST", "/v1/events", page, "Cookie", cookie)
		},
		"pixel": func(r *rig, cookie string) *httptest.ResponseRecorder {
			return r.visit("GET", "/v1/pixel.gif?client=demo", "", "Cookie", cookie)
		},
		"match": func(r *rig, cookie string) *httptest.ResponseRecorder {
			return r.visit("GET", match, "", "Cookie", cookie)
		},
	} {
		r := newRig(t, withProofs, partner)
		first := cookies(ask(r, ""))
		id, proof := first["kith_id"], first["kith_proof"]
		if id == nil || proof == nil || len(proof.Value) != 32 || proof.Value == id.Value || proof.Value != r.g.BrowserProof(proto.Identity("browser:"+id.Value)) {
			t.Fatalf("%s: %v", name, first)
		}
		like := *proof
		like.Name, like.Value, like.Raw = id.Name, id.Value, id.Raw
		if d := cmp.Diff(id, &like); d != "" || !proof.HttpOnly || !proof.Secure || !proof.Partitioned {
			t.Errorf("%s: the proof is kept otherwise: %s", name, d)
		}
		known := "kith_id=" + id.Value
		for _, tt := range []struct {
			cookie string
			given  bool
		}{
			{known + "; kith_proof=" + proof.Value, true},
			{"kith_proof=" + proof.Value + "; kith_proof=ffff; " + known, true},
			{known + "; kith_proof=ffff; kith_proof=" + proof.Value, true}, // a host of the same domain may have set the other
			{known, false},
			{known + "; kith_proof=", false},
			{known + "; kith_proof=" + id.Value, false},
			{known + "; kith_proof=" + strings.Repeat("0", 32), false},
			{known + "; kith_proof=" + proof.Value[:31], false},
			{known + "; kith_proof=" + r.g.BrowserProof("browser:abc123"), false},
			{known + "; " + known, false},
		} {
			again := cookies(ask(r, tt.cookie))
			if c := again["kith_id"]; c == nil || c.Value != id.Value {
				t.Errorf("%s, %q: %v", name, tt.cookie, again)
			}
			if c := again["kith_proof"]; (c != nil && c.MaxAge > 0) != tt.given || tt.given && c.Value != proof.Value {
				t.Errorf("%s, %q: proof %v", name, tt.cookie, c)
			}
		}
		// Of two identities it is known by neither, and gets a new one with a proof.
		again := cookies(ask(r, known+"; kith_id=abc123; kith_proof="+proof.Value))
		if c, p := again["kith_id"], again["kith_proof"]; c == nil || p == nil || c.Value == id.Value || p.Value != r.g.BrowserProof(proto.Identity("browser:"+c.Value)) {
			t.Errorf("%s of two: %v", name, again)
		}
		off := newRig(t, partner)
		if got := cookies(ask(off, "")); got["kith_id"] == nil || got["kith_proof"] != nil {
			t.Errorf("%s, switched off: %v", name, got)
		}
	}
	// What is declared makes an identity too.
	r := newRig(t, withProofs)
	w := r.visit("POST", "/v1/choices", `{"client":"demo","age_band":"25-34"}`, "Content-Type", "application/json")
	if c := cookies(w); c["kith_id"] == nil || c["kith_proof"] == nil || c["kith_proof"].Value != r.g.BrowserProof(proto.Identity("browser:"+c["kith_id"].Value)) {
		t.Errorf("declared: %s %v", w.Body, c)
	}
	p := r.submit("/choices?client=demo", "do=save&age_band=25-34")
	if _, says := outcomeOf(t, p); says != "Saved." || strings.Contains(p.Body.String(), "without the proof") {
		t.Errorf("the page of one that is new: %s", p.Body)
	}
	plain := newRig(t, withProofs, func(c *gateway.Config) { c.CookieInsecure = true })
	if c := cookies(plain.visit("POST", "/v1/events", page))["kith_proof"]; c == nil || c.Secure || !c.HttpOnly {
		t.Errorf("over plain HTTP: %v", c)
	}
}

// TestProofIsOfTheInstallation: all nodes with a secret take it, and no others.
func TestProofIsOfTheInstallation(t *testing.T) {
	node := func(secret string) *rig {
		return newRig(t, withProofs, func(c *gateway.Config) { c.PseudonymKey = []byte(secret) })
	}
	one, two, other := node("0123456789abcdef"), node("0123456789abcdef"), node("0123456789abcdeg")
	c := cookies(one.visit("POST", "/v1/events", page))
	both := "kith_id=" + c["kith_id"].Value + "; kith_proof=" + c["kith_proof"].Value
	for r, want := range map[*rig]bool{one: true, two: true, other: false} {
		w := r.visit("GET", "/v1/me?client=demo", "", "Cookie", both)
		if got := strings.Contains(w.Body.String(), c["kith_id"].Value); got != want {
			t.Errorf("shown: %t, want %t: %s", got, want, w.Body)
		}
	}
}

// TestCopiedIdentityShowsNothing: who sends somebody's kith_id without its proof is shown
// nothing of them and changes nothing, also beside an identity of their own; whoever has
// the proof is shown all.
func TestCopiedIdentityShowsNothing(t *testing.T) {
	const held, trait = "moto", "hatstand"
	open := func(t *testing.T) *rig {
		r := newRig(t, withProofs)
		r.members[member{2, "browser:abc123"}] = []proto.SegmentID{held}
		r.held = map[member]map[string]any{{2, "browser:abc123"}: {trait: "yes"}}
		r.members[member{1, "browser:thief1"}] = []proto.SegmentID{"auto"}
		return r
	}
	proofOf := func(r *rig, name string) string {
		return "kith_id=" + name + "; kith_proof=" + r.g.BrowserProof(proto.Identity("browser:"+name))
	}
	copies := map[string]func(r *rig) string{
		"alone":                  func(*rig) string { return "kith_id=abc123" },
		"twice":                  func(*rig) string { return "kith_id=abc123; kith_id=abc123" },
		"with a proof made up":   func(*rig) string { return "kith_id=abc123; kith_proof=" + strings.Repeat("a", 32) },
		"with the thief's proof": func(r *rig) string { return "kith_id=abc123; kith_proof=" + r.g.BrowserProof("browser:thief1") },
		"beside the thief's own": func(r *rig) string { return proofOf(r, "thief1") + "; kith_id=abc123" },
		"before the thief's own": func(r *rig) string { return "kith_id=abc123; " + proofOf(r, "thief1") },
		"behind more than are few": func(r *rig) string {
			return proofOf(r, "thief1") + "; kith_id=x1; kith_id=x2; kith_id=x3; kith_id=abc123"
		},
	}
	shows := []string{
		"/v1/me?client=acme", "/v1/me/segments?client=acme", "/v1/me/segments?client=acme&format=ortb2",
		"/choices", "/choices?client=acme", "/choices?lang=de", "/choices?client=acme&lang=de",
	}
	for _, target := range shows { // what there is to see
		r := open(t)
		if w := r.visit("GET", target, "", "Cookie", proofOf(r, "abc123")); w.Code != 200 || !strings.Contains(w.Body.String(), held) && !strings.Contains(w.Body.String(), "client=acme&amp;") || w.Header().Get("X-Kith-Withheld") != "" {
			t.Errorf("%s with the proof: %d %s", target, w.Code, w.Body)
		}
	}
	changes := []struct{ method, target, body string }{
		{"DELETE", "/v1/me", ""},
		{"POST", "/v1/choices", `{"client":"acme","age_band":"25-34"}`},
		{"POST", "/v1/choices", `{"client":"acme","remove":["` + trait + `"]}`},
		{"POST", "/v1/choices", `{"client":"acme","age_band":""}`},
		{"POST", "/choices?client=acme", "do=save&age_band=25-34"},
		{"POST", "/choices?client=acme", "do=save&remove=" + trait},
		{"POST", "/choices?client=acme", "do=erase"},
	}
	ask := func(r *rig, method, target, body, cookie string) *httptest.ResponseRecorder {
		if method == "POST" && !strings.HasPrefix(target, "/v1/") {
			return r.submit(target, body, "Cookie", cookie)
		}
		return r.visit(method, target, body, "Cookie", cookie, "Content-Type", "application/json")
	}
	for name, cookie := range copies {
		t.Run(name, func(t *testing.T) {
			r := open(t)
			c, alone := cookie(r), !strings.Contains(cookie(r), "thief1;")
			for _, target := range shows {
				w := r.visit("GET", target, "", "Cookie", c)
				for _, secret := range []string{held, trait, "client=acme&amp;lang=en\">acme", "client=acme&amp;lang=de\">acme", "abc123"} {
					if w.Code != 200 || strings.Contains(w.Body.String(), secret) {
						t.Errorf("%s shows %s: %d %s", target, secret, w.Code, w.Body)
					}
				}
				if strings.HasPrefix(target, "/v1/") && alone != (w.Header().Get("X-Kith-Withheld") == "unproven") {
					t.Errorf("%s does not say why: %v", target, w.Header())
				}
				if strings.HasPrefix(target, "/choices") {
					saysWhy(t, w, target)
				}
			}
			for _, x := range changes {
				r := open(t)
				w := ask(r, x.method, x.target, x.body, cookie(r))
				if alone && (w.Code != 400 || strings.HasPrefix(x.target, "/v1/") && code(w) != "unproven") {
					t.Errorf("%s %s %s: %d %s", x.method, x.target, x.body, w.Code, w.Body)
				}
				if slices.ContainsFunc(r.graph.cuts, func(s string) bool { return strings.Contains(s, "abc123") }) {
					t.Errorf("%s %s %s: %v", x.method, x.target, x.body, r.graph.cuts)
				}
				if slices.ContainsFunc(r.traits, func(x proto.Traits) bool { return x.Identity == "browser:abc123" }) {
					t.Errorf("%s %s %s: %v", x.method, x.target, x.body, r.traits)
				}
				if alone && !strings.HasPrefix(x.target, "/v1/") {
					saysWhy(t, w, x.body)
				}
				if c := cookies(w)["kith_id"]; c != nil && c.MaxAge < 0 && (x.method == "DELETE" || x.body == "do=erase") {
					t.Errorf("%s %s: what an opt-out has to reach is taken away", x.method, x.target)
				}
			}
		})
	}
	// With the proof all of that is done.
	for _, x := range changes {
		r := open(t)
		if w := ask(r, x.method, x.target, x.body, proofOf(r, "abc123")); w.Code != 200 || len(r.graph.cuts)+len(r.traits) != 1 {
			t.Errorf("%s %s %s with the proof: %d %s", x.method, x.target, x.body, w.Code, w.Body)
		}
	}
	// Of two the one that is proven is erased, and the other stays to be opted out.
	r := open(t)
	w := r.visit("DELETE", "/v1/me", "", "Cookie", proofOf(r, "thief1")+"; kith_id=abc123")
	if d := cmp.Diff([]string{"erase browser:thief1 all"}, r.graph.cuts); w.Code != 200 || d != "" || len(cookies(w)) != 0 {
		t.Errorf("%d %s %s", w.Code, w.Header()["Set-Cookie"], d)
	}
	// Where it is switched off all is as it was.
	off := newRig(t)
	off.members[member{2, "browser:abc123"}] = []proto.SegmentID{held}
	if w := off.visit("GET", "/v1/me?client=acme", "", "Cookie", "kith_id=abc123"); !strings.Contains(w.Body.String(), held) {
		t.Errorf("switched off: %s", w.Body)
	}
}

// saysWhy checks that a page of choices says, in its language, why it shows nothing, and
// denies nothing that was not looked up.
func saysWhy(t *testing.T, w *httptest.ResponseRecorder, what string) {
	t.Helper()
	n := parsePage(t, w)
	lang := attr(find(n, "html", "")[0], "lang")
	for _, words := range gateway.Languages() {
		if got := strings.Contains(text(n), words.Unproven); got != (words.Lang == lang) {
			t.Errorf("%s, %s: why is said in %s: %t: %s", what, lang, words.Lang, got, text(n))
		}
		if strings.Contains(text(n), words.NothingHeld) || strings.Contains(text(n), words.NoSites) {
			t.Errorf("%s: what was not looked up is denied: %s", what, text(n))
		}
	}
}

// TestCopiedIdentityBars: where all identities come without proof the pages have no form
// but the way to the opt-out.
func TestCopiedIdentityBars(t *testing.T) {
	r := newRig(t, withProofs)
	for _, w := range gateway.Languages() {
		for _, target := range []string{"/choices?", "/choices?client=demo&"} {
			n := parsePage(t, r.visit("GET", target+"lang="+w.Lang, "", "Cookie", mineToo))
			if forms := find(n, "form", ""); len(forms) != 0 || !strings.Contains(text(n), w.Unproven) || !strings.Contains(text(n), w.ToOptOut) {
				t.Errorf("%s%s: %d forms: %s", target, w.Lang, len(forms), text(n))
			}
		}
		p := r.submit("/choices?client=demo&lang="+w.Lang, "do=erase", "Cookie", mineToo)
		if class, said := outcomeOf(t, p); class != "bad" || said != w.Failures[proto.CodeUnproven] {
			t.Errorf("%s: %s %q", w.Lang, class, said)
		}
	}
	if n := parsePage(t, r.visit("GET", "/choices?client=demo", "")); len(find(n, "form", "")) == 0 || strings.Contains(text(n), gateway.Languages()[0].Unproven) {
		t.Errorf("who has no cookie is told of a proof: %s", text(n))
	}
	// Nor is the record read that would not be shown.
	read := 0
	r.history = func() proto.NextEvents { read++; return nil }
	r.members[member{1, "browser:abc123"}] = []proto.SegmentID{"auto"}
	proof := "; kith_proof=" + r.g.BrowserProof("browser:abc123")
	for _, cookie := range []string{mineToo, mineToo + proof} {
		r.visit("GET", "/choices?client=demo", "", "Cookie", cookie)
		if want := strings.Count(cookie, proof); read != want {
			t.Errorf("%q: %d records are read, want %d", cookie, read, want)
		}
	}
	// Where another one is proven, nothing is said of both that is true of that alone.
	two := mineToo + proof + "; kith_id=thief1"
	for _, w := range gateway.Languages() {
		said := text(parsePage(t, r.visit("GET", "/choices?client=demo&lang="+w.Lang, "", "Cookie", two)))
		if !strings.Contains(said, w.Unproven) || !strings.Contains(said, w.HeldOfSeveral) || strings.Contains(said, w.SeveralGo) {
			t.Errorf("%s: of two, one proven: %s", w.Lang, said)
		}
		r.members = map[member][]proto.SegmentID{{1, "browser:thief1"}: {"auto"}}
		said = text(parsePage(t, r.visit("GET", "/choices?lang="+w.Lang, "", "Cookie", two)))
		if !strings.Contains(said, w.Unproven) || strings.Contains(said, w.NoSites) {
			t.Errorf("%s: of two, one proven of whom nobody holds anything: %s", w.Lang, said)
		}
	}
}

// TestOptOutNeedsNoProof: whoever says so is out, by every way there is, and both cookies
// go; the receipt tells nobody what there was, and only its own browser opts in again.
func TestOptOutNeedsNoProof(t *testing.T) {
	for name, ask := range map[string]func(r *rig, cookie string) *httptest.ResponseRecorder{
		"route": func(r *rig, cookie string) *httptest.ResponseRecorder {
			return r.visit("POST", "/v1/optout", "", "Cookie", cookie)
		},
		"page": func(r *rig, cookie string) *httptest.ResponseRecorder {
			return r.submit("/optout", "do=out", "Cookie", cookie)
		},
		"child's page": func(r *rig, cookie string) *httptest.ResponseRecorder {
			return r.submit("/choices?client=demo", "do=save&age_band=under-13", "Cookie", cookie)
		},
		"child": func(r *rig, cookie string) *httptest.ResponseRecorder {
			return r.visit("POST", "/v1/choices", `{"client":"demo","age_band":"under-13"}`, "Cookie", cookie, "Content-Type", "application/json")
		},
	} {
		for _, proof := range []string{"", "ffff", "own"} {
			r := newRig(t, withProofs)
			cookie, whose := "kith_id=abc123", gateway.Unheard
			switch proof {
			case "":
			case "own":
				proof, whose = r.g.BrowserProof("browser:abc123"), proto.ClientInfo{}
				fallthrough
			default:
				cookie += "; kith_proof=" + proof
			}
			w := ask(r, cookie)
			c := cookies(w)
			if w.Code != 200 || c["kith_optout"] == nil || c["kith_optout"].Value != "1" || c["kith_id"] == nil || c["kith_id"].MaxAge >= 0 {
				t.Errorf("%s, %q: %d %v", name, cookie, w.Code, w.Header())
			}
			if p := c["kith_proof"]; (p == nil) != (proof == "") || p != nil && p.MaxAge >= 0 {
				t.Errorf("%s, %q: the proof is left: %v", name, cookie, p)
			}
			if len(r.graph.cuts) != 1 || !strings.Contains(w.Body.String(), "signature") || r.graph.told != whose {
				t.Errorf("%s, %q: cuts %v for %v: %s", name, cookie, r.graph.cuts, r.graph.told, w.Body)
			}
			// Asked again it has the receipt of then, and the status too.
			for _, again := range []func() *httptest.ResponseRecorder{
				func() *httptest.ResponseRecorder { return ask(r, cookie) },
				func() *httptest.ResponseRecorder {
					return r.visit("GET", "/v1/optout/status", "", "Cookie", cookie+"; kith_optout=1")
				},
				func() *httptest.ResponseRecorder {
					return r.visit("GET", "/optout", "", "Cookie", cookie+"; kith_optout=1")
				},
			} {
				r.graph.looked = proto.ClientInfo{Name: "nobody"}
				if w := again(); w.Code != 200 || !strings.Contains(w.Body.String(), "signature") || r.graph.looked != whose {
					t.Errorf("%s, %q, again: for %v: %s", name, cookie, r.graph.looked, w.Body)
				}
			}
			// One that is not final, likewise.
			r.graph.slow, r.graph.looked = true, proto.ClientInfo{Name: "nobody"}
			late := ask(r, strings.Replace(cookie, "abc123", "abc124", 1))
			if c := cookies(late); c["kith_id"] != nil || c["kith_proof"] != nil {
				t.Errorf("%s, %q: by what is the receipt had? %v", name, cookie, c)
			}
		}
	}
	// Nor does the wait for one that is final later tell more.
	late := newRig(t, withProofs, func(c *gateway.Config) { c.FinalWait = 200 * time.Millisecond })
	late.graph.slow = true
	for cookie, want := range map[string]proto.ClientInfo{mineToo: gateway.Unheard, "kith_id=abc124; kith_proof=" + late.g.BrowserProof("browser:abc124"): {}} {
		late.graph.looked = proto.ClientInfo{Name: "nobody"}
		late.visit("POST", "/v1/optout", "", "Cookie", cookie)
		if late.graph.looked != want {
			t.Errorf("%q: waited for %v", cookie, late.graph.looked)
		}
	}
	// Where no cookie is seen both are cleared all the same, as kith_id always was.
	if c := cookies(newRig(t, withProofs).visit("POST", "/v1/optout", "")); c["kith_id"] == nil || c["kith_proof"] == nil || c["kith_proof"].MaxAge >= 0 {
		t.Errorf("no cookie was seen: %v", c)
	}
	if c := cookies(newRig(t).visit("POST", "/v1/optout", "")); c["kith_proof"] != nil {
		t.Errorf("switched off: %v", c)
	}
	// Without a proof no opt-out is lifted: the browser gets another identity.
	for _, way := range []func(r *rig, cookie string) *httptest.ResponseRecorder{
		func(r *rig, cookie string) *httptest.ResponseRecorder {
			return r.visit("POST", "/v1/optin", "", "Cookie", cookie)
		},
		func(r *rig, cookie string) *httptest.ResponseRecorder {
			return r.submit("/optout", "do=in", "Cookie", cookie)
		},
	} {
		r := newRig(t, withProofs)
		r.graph.out["browser:abc123"] = &proto.OptOutState{OptedOut: true, Final: true}
		w := way(r, mineToo)
		if c := cookies(w)["kith_id"]; w.Code != 200 || len(r.graph.cuts) != 0 || c == nil || c.MaxAge >= 0 {
			t.Errorf("opted in without a proof: %v %v", r.graph.cuts, w.Header())
		}
		way(r, mineToo+"; kith_proof="+r.g.BrowserProof("browser:abc123"))
		if d := cmp.Diff([]string{"optin browser:abc123"}, r.graph.cuts); d != "" {
			t.Errorf("opted in with the proof: %s", d)
		}
	}
	// One from before that is not opted out keeps what an opt-out has to reach.
	r := newRig(t, withProofs)
	if c := cookies(r.visit("POST", "/v1/optin", "", "Cookie", mineToo)); c["kith_id"] != nil {
		t.Errorf("%v", c["kith_id"])
	}
}

// TestProofGoesWithItsIdentity: in whatever scope it is, also once none are given out any
// more; and a browser from before that opts out and in has one from then on.
func TestProofGoesWithItsIdentity(t *testing.T) {
	for _, on := range []bool{true, false} {
		for _, was := range []string{"", "example.com"} {
			for _, ask := range [][3]string{{"POST", "/v1/optout", ""}, {"DELETE", "/v1/me", ""}} {
				r := newRig(t, func(c *gateway.Config) { c.CookieDomain, c.CookieProof = "kith.example.com", on })
				b := newBrowsing(t, r, "https://kith.example.com")
				b.has(was, "kith_id", "abc123")
				b.has(was, "kith_proof", r.g.BrowserProof("browser:abc123"))
				b.ask(ask[0], ask[1], ask[2])
				for _, c := range b.jar.Cookies(b.at) {
					if c.Name != "kith_optout" {
						t.Errorf("%t, %q, %s: %s is left", on, was, ask[1], c)
					}
				}
			}
		}
	}
	r := newRig(t, withProofs)
	b := newBrowsing(t, r, "https://kith.news.example.co.uk")
	b.has("", "kith_id", "abc123")
	has := func(want bool) {
		t.Helper()
		w := b.ask("GET", "/v1/me?client=demo", "")
		if got := len(b.known()) == 1 && strings.Contains(w.Body.String(), `"identity":"browser:`+b.known()[0]); got != want {
			t.Errorf("shown: %t: %s, cookies %v", got, w.Body, b.jar.Cookies(b.at))
		}
	}
	b.ask("POST", "/v1/events", page)
	has(false)
	b.ask("POST", "/v1/optout", "")
	b.ask("POST", "/v1/optin", "")
	b.ask("POST", "/v1/events", page)
	has(true)
	b.ask("POST", "/v1/events", page)
	has(true)
	// Several in all scopes give way to one, in an answer that proxies let through.
	for _, domain := range []string{"", "kith.news.example.co.uk", "news.example.co.uk", "example.co.uk"} {
		b.has(domain, "kith_id", "aaaa1"+url.PathEscape(strings.ReplaceAll(domain, ".", "")))
		b.has(domain, "kith_proof", strings.Repeat("e", 32))
	}
	w := b.ask("POST", "/v1/events", page)
	has(true)
	size := 0
	for _, line := range w.Header()["Set-Cookie"] {
		size += len(http.CanonicalHeaderKey("Set-Cookie")) + len(line) + 4
	}
	t.Logf("%d bytes of cookies", size)
	if n := len(b.jar.Cookies(b.at)); n != 3 || size > 3500 { // with kith_optin; an answer's header is often let be 4 KiB
		t.Errorf("%d cookies by %d bytes", n, size)
	}
}
