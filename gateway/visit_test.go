package gateway_test

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"kith/gateway"
	"kith/proto"
)

// TestOptOutAgain: a tag repeats what it remembers; an opt-in since counts more,
// nothing else does.
func TestOptOutAgain(t *testing.T) {
	for _, tt := range []struct {
		name, cookie, body string
		out                bool
	}{
		{"cookies are gone", "", `{"again":true}`, true},
		{"cookies are gone, but for a new identity", "kith_id=3f0c9a7b", `{"again":true}`, true},
		{"the cookie is there", "kith_optout=1", `{"again":true}`, true},
		{"opted in since", "kith_optin=1", `{"again":true}`, false},
		{"opted in since, and known again", "kith_optin=1; kith_id=3f0c9a7b", `{"again":true}`, false},
		{"opted in, and out elsewhere", "kith_optin=1; kith_optout=1", `{"again":true}`, true},
		{"not again", "kith_optin=1", `{}`, true},
		{"not again, said", "kith_optin=1", `{"again":false}`, true},
		{"no body", "kith_optin=1", "", true},
		{"a body that is none", "kith_optin=1", `{"again":true`, true},
		{"a cookie that is none", "kith_optin=true", `{"again":true}`, true},
	} {
		r := newRig(t)
		w := r.visit("POST", "/v1/optout", tt.body, "Cookie", tt.cookie)
		set := cookies(w)
		want := `{"opted_out":true`
		if !tt.out {
			want = `{"opted_out":false}`
		}
		if w.Code != 200 || !strings.HasPrefix(w.Body.String(), want) {
			t.Errorf("%s: %d %s", tt.name, w.Code, w.Body)
		}
		if tt.out != (set["kith_optout"] != nil) || !tt.out && len(set) != 0 {
			t.Errorf("%s: cookies %v", tt.name, w.Header()["Set-Cookie"])
		}
		if tt.out && set["kith_optin"].MaxAge >= 0 {
			t.Errorf("%s: the opt-in is left", tt.name)
		}
		if cut := strings.Contains(tt.cookie, "kith_id") && tt.out; cut != (len(r.graph.cuts) > 0) {
			t.Errorf("%s: cuts %v", tt.name, r.graph.cuts)
		}
	}
	// From where an opt-out may not come, the question may, and changes nothing.
	r := newRig(t)
	for again, status := range map[string]int{`{"again":true}`: 200, `{}`: 403} {
		w := r.visit("POST", "/v1/optout", again, "Cookie", "kith_optin=1; kith_id=3f0c9a7b", "Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example")
		if w.Code != status || len(cookies(w)) != 0 || len(r.graph.cuts) != 0 {
			t.Errorf("%s: %d %v", again, w.Code, w.Header())
		}
	}
	in := cookies(r.visit("POST", "/v1/optin", "", "Cookie", "kith_optout=1"))["kith_optin"]
	if in == nil || in.Value != "1" || !in.HttpOnly || in.Partitioned {
		t.Errorf("opt-in: %v", in)
	}
}

// TestOptOutWhereCookiesAreApart: there only a cookie for the page's site is kept, and
// elsewhere only one that an opt-in can lift. A browser that does not say gets both.
func TestOptOutWhereCookiesAreApart(t *testing.T) {
	r := newRig(t, func(c *gateway.Config) {
		c.Origins = map[proto.ClientName][]string{"acme": {"https://acme.example"}}
	})
	const access, hints = "Sec-Fetch-Storage-Access", "Sec-Ch-Ua"
	for _, tt := range []struct {
		name        string
		apart, with bool // the cookies that are left
		headers     []string
	}{
		{"none", true, false, []string{access, "none"}},
		{"inactive", true, false, []string{access, "inactive"}},
		{"active", false, true, []string{access, "active"}},
		{"Safari", true, true, nil},
		{"Chromium before 133", false, true, []string{hints, `"Chromium";v="128"`}},
		{"a page of this site", false, true, []string{"Sec-Fetch-Site", "same-site"}},
	} {
		for _, cookie := range []string{"", "kith_optout=1", "kith_optout=1; kith_optout=1"} {
			headers := append([]string{"Sec-Fetch-Site", "cross-site", "Origin", "https://acme.example", "Cookie", cookie}, tt.headers...)
			check := func(what string, w *httptest.ResponseRecorder) {
				t.Helper()
				left := map[bool]bool{} // whether it stays, by whether it is kept apart
				for _, c := range w.Result().Cookies() {
					if c.Name == "kith_optout" {
						left[c.Partitioned] = c.Value == "1" && c.MaxAge > 0
					}
				}
				if left[true] != tt.apart || left[false] != tt.with {
					t.Errorf("%s, %q, %s: %v", tt.name, cookie, what, w.Header()["Set-Cookie"])
				}
			}
			check("set", r.visit("POST", "/v1/optout", "", headers...))
			if cookie == "" {
				continue
			}
			check("renewed", r.visit("POST", "/v1/events", page, headers...))
			check("repeated", r.visit("POST", "/v1/optout", `{"again":true}`, headers...))
		}
	}
	// What a link from another site leads to is this site's own page.
	for _, c := range r.visit("GET", "/optout", "", "Cookie", "kith_optout=1", "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Dest", "document").Result().Cookies() {
		if c.Partitioned && c.MaxAge >= 0 {
			t.Errorf("at the end of a link: %v", c)
		}
	}
	// An opt-in there lifts both, an erasure takes the identity of either kind away.
	for target, name := range map[string]string{"POST /v1/optin": "kith_optout", "DELETE /v1/me": "kith_id"} {
		method, path, _ := strings.Cut(target, " ")
		gone := map[bool]bool{}
		for _, c := range r.visit(method, path, "", "Cookie", "kith_optout=1; kith_optout=1; kith_id=3f0c9a7b", "Sec-Fetch-Site", "same-origin").Result().Cookies() {
			if c.Name == name {
				gone[c.Partitioned] = c.MaxAge < 0
			}
		}
		if !gone[true] || !gone[false] {
			t.Errorf("%s: %s gone by whether it is kept apart: %v", target, name, gone)
		}
	}
}

// TestSignalsOfAQuery: what a consent platform said counts on the tag's routes as
// it does in a partner's call.
func TestSignalsOfAQuery(t *testing.T) {
	for _, tt := range []struct{ query, by string }{
		{"gdpr=1&gdpr_consent=" + consented, ""},
		{"gdpr=1&gdpr_consent=" + refused, "gdpr"},
		{"gdpr=1", "gdpr"},
		{"gdpr=0", ""},
		{"gdpr=0&gdpr_consent=" + refused, ""},
		{"gdpr_consent=" + refused, "gdpr"},
		{"us_privacy=1YNN", ""},
		{"us_privacy=1YYN", "us_privacy"},
		{"gpp=DBABLA~" + usSection(1, 6, 2, 2, 2) + "&gpp_sid=7", ""},
		{"gpp=DBABLA~" + usSection(1, 6, 1, 2, 2) + "&gpp_sid=7", "gpp"},
		{"gpp=DBABLA%7E" + usSection(1, 6, 2, 2, 1) + "&gpp_sid=7%2C8", "gpp"},
		{"gpp_sid=7", "gpp"},
		{"gpp=&gpp_sid=&us_privacy=&gdpr=&gdpr_consent=", ""},
	} {
		r := newRig(t)
		own := []string{"Cookie", "kith_id=3f0c9a7b"}
		w := r.visit("POST", "/v1/events?"+tt.query, page, own...)
		if got := strings.Contains(w.Body.String(), `"by":"`+tt.by+`"}`); w.Code != 200 || got != (tt.by != "") || strings.Contains(w.Body.String(), `"opted_out"`) != (tt.by != "") {
			t.Errorf("%s: events: %d %s", tt.query, w.Code, w.Body)
		}
		if n := len(r.taken()); (n == 0) != (tt.by != "") || (cookies(w)["kith_id"] == nil) != (tt.by != "") {
			t.Errorf("%s: %d events, cookies %v", tt.query, n, cookies(w))
		}
		r.visit("POST", "/v1/events", page, own...)
		w = r.visit("GET", "/v1/me/segments?client=demo&"+tt.query, "", own...)
		want := `{"opted_out":false,"segments":["all","auto"]}`
		if tt.by != "" {
			want = `{"opted_out":true,"segments":[],"by":"` + tt.by + `"}`
		}
		if got := strings.TrimSpace(w.Body.String()); got != want {
			t.Errorf("%s: segments: %s", tt.query, got)
		}
		before := len(r.taken())
		w = r.visit("GET", "/v1/pixel.gif?client=demo&p.gdpr=1&"+tt.query, "", own...)
		if refused := strings.HasPrefix(w.Header().Get("X-Kith-Error"), "opted_out: "); refused != (tt.by != "") || (len(r.taken()) == before) != refused {
			t.Errorf("%s: pixel: %v", tt.query, w.Header())
		}
	}
	r := newRig(t, func(c *gateway.Config) { c.TCFVendor = 2 })
	if w := r.visit("POST", "/v1/events?gdpr=1&gdpr_consent="+consented, page); !strings.Contains(w.Body.String(), `"by":"gdpr"`) {
		t.Errorf("without consent to the vendor: %s", w.Body)
	}
	// What is there twice, or cannot be read, counts as against it.
	for _, query := range []string{"gdpr=0&gdpr=1", "gdpr_consent=%zz"} {
		if w := r.visit("POST", "/v1/events?"+query, page); !strings.Contains(w.Body.String(), `"by":"gdpr"`) {
			t.Errorf("%s: %s", query, w.Body)
		}
	}
	for query, want := range map[string]string{"gpp=" + strings.Repeat("D", 17<<10): "too_large", "other=%zz&other=1": ""} {
		w := r.visit("POST", "/v1/events?"+query, page)
		if code(w) != want || (w.Code == http.StatusOK) != (want == "") {
			t.Errorf("%.20s: %d %s", query, w.Code, w.Body)
		}
		if w := r.visit("GET", "/v1/me/segments?client=demo&"+query, ""); code(w) != want {
			t.Errorf("%.20s: segments: %d %s", query, w.Code, w.Body)
		}
	}
}

// TestPagesReadRetryAfter: a page of another site sees no header that is not named.
func TestPagesReadRetryAfter(t *testing.T) {
	r := newRig(t)
	r.fail, r.failErr = func(int, *proto.Event) bool { return true }, &proto.Error{Code: proto.CodeUnavailable, Message: "no leader", RetryAfter: 7 * time.Second}
	w := r.visit("POST", "/v1/events", page, "Origin", "https://news.example")
	if h := w.Header(); w.Code != 503 || h.Get("Retry-After") != "7" || h.Get("Access-Control-Expose-Headers") != "Retry-After" || h.Get("Access-Control-Allow-Origin") != "https://news.example" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
}

// FuzzCookies: the values of our cookies are those that net/http reads.
func FuzzCookies(f *testing.F) {
	for _, line := range []string{
		"kith_id=3f0c9a7b", "kith_id=", "kith_id", "kith_id =a", " kith_id=a", "kith_id=a ", `kith_id="a"`, "kith_id=a b", "kith_id=a=b", "kith_id=a;", "a=kith_id",
		"kith_id=a; kith_id=b", "kith_ids=a", "xkith_id=a", "kith_id=.a", "kith_id=ä", "kith_id=kith_optout", "a=b; kith_id=c; kith_optin=1", ";kith_id=a", "KITH_ID=a",
	} {
		f.Add(line, "")
		f.Add(line, line)
	}
	f.Fuzz(func(t *testing.T, line, other string) {
		for _, lines := range [][]string{nil, {line}, {line, other}} {
			r := &http.Request{Header: http.Header{"Cookie": lines}}
			var want []string
			for _, c := range r.CookiesNamed("kith_id") {
				want = append(want, c.Value)
			}
			if got := gateway.CookiesNamed(r, "kith_id"); !slices.Equal(got, want) {
				t.Errorf("%q: %q, want %q", lines, got, want)
			}
		}
	})
}
