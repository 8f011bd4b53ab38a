package gateway_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/google/go-cmp/cmp"

	"kith/proto"
)

// TestTagInABrowser has a real browser load the tag. Its parts share the browser;
// each has cookies and storage of its own.
func TestTagInABrowser(t *testing.T) {
	shared := browser(t, chromedp.Flag("host-resolver-rules", "MAP *.test 127.0.0.1"), chromedp.Flag("test-third-party-cookie-phaseout", true))
	if err := chromedp.Do(shared); err != nil {
		t.Fatal(err)
	}
	for _, part := range []struct {
		name string
		test func(*surfer)
	}{
		{"first visit, calls before it loads in order", firstVisit},
		{"return visits keep the id", returnVisits},
		{"segments are kept for a while", segmentsKept},
		{"segments of who was erased elsewhere", segmentsOfErased},
		{"segments of before an identify", segmentsBeforeIdentify},
		{"opt-out", optOut},
		{"opt-out, cookies cleared", optOutCookiesCleared},
		{"opt-out, storage cleared", optOutStorageCleared},
		{"opt-out in another tab", optOutInAnotherTab},
		{"opt-out that nobody heard", optOutUnheard},
		{"opt-out that nobody heard, GPC", optOutUnheardUnder("", `Object.defineProperty(Navigator.prototype, "globalPrivacyControl", {value: true})`, "")},
		{"opt-out that nobody heard, a no", optOutUnheardUnder(`data-consent="wait"`, "", `kith("consent", false)`)},
		{"opt-out that nobody heard, a no by the TCF", optOutUnheardUnder("", tcf, tcData("tcloaded", refused, 1))},
		{"opt-out before the first answer", optOutEarly},
		{"opt-in since", optInSince},
		{"GPC and DNT", trackingSignals},
		{"third party, cookies apart", thirdParty},
		{"leaving", leaving},
		{"leaving before the answer", leavingEarly},
		{"leaving without beacons", leavingWithoutBeacons},
		{"time on page", timeOnPage},
		{"time on page, without consent", timeUntold},
		{"time on page, the clock is set", timeByClock},
		{"search terms of the referrer", referrersQuery},
		{"blocked", blocked},
		{"slow gateway", slowGateway},
		{"content security policy", securityPolicy},
		{"navigation within the page", navigation},
		{"retry after 503", retryAfter503},
		{"retry of what was not kept", retryOfSome},
		{"retry when the answer was lost", retryOfLostAnswer},
		{"retry after an answer of somebody else", retryOfOthersAnswer},
		{"no retry after a sleep", retryAfterSleep},
		{"retries end", retriesEnd},
		{"retries end for those that had them", retriesEndApart},
		{"identify takes digests only", identifyDigests},
		{"what cannot be sent", notSent},
		{"wrong calls", wrongCalls},
		{"two tags on a page that is prepared", twoTags},
		{"TCF", consentTCF},
		{"TCF, the gateway reads closer", consentTCFReadCloser},
		{"TCF that never comes", consentMissing},
		{"GPP", consentGPP},
		{"a platform of the page around", consentAround},
		{"TCF and GPP", consentBoth},
		{"a banner of the page's own", consentOwn},
		{"consent withdrawn and given again", consentAgain},
		{"hosts", hosts},
	} {
		t.Run(part.name, func(t *testing.T) { part.test(newSurfer(t, shared)) })
	}
}

// Digests as accounts have: SHA-256 in hexadecimal and in base64url.
const (
	hexDigest    = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
	base64Digest = "n4bQgYhMfWWaL-qgxVrQFaO_TxsrC4Is0V1sFbDwCgg"
)

func firstVisit(s *surfer) {
	s.page(`data-section="auto" data-cache="60"`, `kith("event", "one", {n: 1}); kith("identify", "account", "`+hexDigest+`"); kith("event", "two")`, "")
	s.open("/auto/7?token=secret#x")
	events := s.took("page", "one", "identify", "two")
	browser := events[0].Identities[0]
	ids := map[string]bool{}
	for _, e := range events {
		ids[e.ID] = true
		if e.Identities[0] != browser || browser.Kind() != "browser" || len(browser.Value()) != 32 {
			s.t.Errorf("%s is of %v, the first of %s", e.Name, e.Identities, browser)
		}
		if want := s.at("localhost") + "/auto/7"; e.URL != want || e.ID == "" {
			s.t.Errorf("%s has url %q and id %q", e.Name, e.URL, e.ID)
		}
	}
	if len(ids) != len(events) {
		s.t.Errorf("ids %v", ids)
	}
	// A browser without a screen says so, and is a robot.
	want := []proto.Prop{{Key: "section", Value: proto.TextOf("auto")}, {Key: "device", Value: proto.TextOf("bot")}, {Key: "bot", Value: proto.FlagOf(true)}}
	if d := cmp.Diff(want, events[0].Props); d != "" {
		s.t.Error(d)
	}
	if d := cmp.Diff([]proto.Identity{browser, "account:" + hexDigest}, events[2].Identities); d != "" {
		s.t.Error(d)
	}
	// The identity is the cookie's alone: no script of the page comes to see it.
	if seen := value[string](s, "document.cookie + JSON.stringify(localStorage) + JSON.stringify(sessionStorage)"); seen != "{}{}" {
		s.t.Errorf("the page sees %s", seen)
	}
	s.calm()
}

func returnVisits(s *surfer) {
	for n := range 3 {
		s.open("/")
		s.until("a page view", func() bool { return len(s.rig.taken()) == n+1 })
	}
	for _, e := range s.rig.taken() {
		if e.Identities[0] != s.rig.taken()[0].Identities[0] {
			s.t.Errorf("%v, then %v", s.rig.taken()[0].Identities, e.Identities)
		}
	}
}

func segmentsKept(s *surfer) {
	s.page(`data-section="auto"`, "", "")
	s.open("/auto/1") // the identify is of that section too
	s.took("page")
	s.quiet() // what a newcomer was told before is not kept
	asked := 0
	ask := func(name, before, more string, again bool) {
		s.t.Helper()
		if before != "" {
			s.do(before)
		}
		if got := s.segments(more); !slices.Equal(got, []string{"all", "auto"}) {
			s.t.Errorf("%s: segments %v", name, got)
		}
		if again {
			asked++
		}
		if n := len(s.front.to("/v1/me/segments")); n != asked {
			s.t.Errorf("%s: asked the gateway %d times, want %d", name, n, asked)
			asked = n
		}
	}
	edit := func(what string) string {
		return `const x = JSON.parse(localStorage.kith_segments); ` + what + `; localStorage.kith_segments = JSON.stringify(x)`
	}
	ask("first", "", "", true)
	ask("again", "", "", false)
	ask("afresh", "", ", 0", true)
	ask("aged", edit("x.t -= 301e3"), "", true)
	ask("from a clock that is ahead", edit("x.t += 60e3"), "", true)
	ask("of another version", edit("x.v = 0"), "", true)
	ask("of another client", edit("x.c = 'acme'"), "", true)
	ask("broken", `localStorage.kith_segments = "{"`, "", true)
	ask("after an identify", `kith("identify", "account", "`+hexDigest+`")`, "", true)
	s.took("page", "identify")
	s.quiet() // the answer came
	ask("once the identify is told", "", "", true)
	ask("again", "", "", false)
	ask("shorter", edit("x.t -= 20e3"), ", 10", true)
	s.do(`await Promise.all([1, 2, 3].map(() => new Promise(done => kith("segments", done, 0))))`)
	asked++
	ask("after several at once", "", "", false)
	s.open("/auto/2")
	ask("on the next page", "", "", false)
	s.optOut()
	if got := s.segments(""); len(got) != 0 || s.stored("kith_segments") != "" {
		s.t.Errorf("after the opt-out: %v, stored %q", got, s.stored("kith_segments"))
	}
	s.calm()
}

// segmentsOfErased: who erases all on kith's own page is a stranger on the next page, of
// whom the old list is told no more once that page was heard of.
func segmentsOfErased(s *surfer) {
	s.page(`data-section="auto"`, "", "")
	s.open("/auto/1")
	s.took("page")
	s.quiet()
	s.do(keptBefore)
	s.clearCookies()
	s.open("/auto/2")
	s.took("page", "page")
	s.quiet()
	if got := s.segments(""); slices.Contains(got, "old") {
		s.t.Errorf("a stranger is in %v", got)
	}
	s.do(keptBefore)
	s.open("/auto/3")
	s.took("page", "page", "page")
	s.quiet()
	if got := s.segments(""); !slices.Contains(got, "old") {
		s.t.Errorf("what is kept of who comes back is not used: %v", got)
	}
	s.calm()
}

// segmentsBeforeIdentify: what is kept was the visitor's of before a log-in that
// the page said before the tag was there.
func segmentsBeforeIdentify(s *surfer) {
	s.page(`data-section="auto"`, `localStorage.kith_segments = JSON.stringify({v: 1, c: "demo", t: Date.now(), s: ["old"]});
		kith("identify", "account", "`+hexDigest+`"); kith("segments", x => window.got = x)`, "")
	s.open("/")
	s.took("page", "identify")
	s.until("segments", func() bool { return value[bool](s, "Array.isArray(window.got)") })
	if got := value[[]string](s, "got"); slices.Contains(got, "old") || len(s.front.to("/v1/me/segments")) != 1 {
		s.t.Errorf("segments %v, asked %d times", got, len(s.front.to("/v1/me/segments")))
	}
	s.quiet()
	if got := s.stored("kith_segments"); got != "" {
		s.t.Errorf("kept what was asked before the identify was told: %s", got)
	}
	s.calm()
}

// optedOut visits and opts out, and gives the number of events until then.
func (s *surfer) optedOut() (events int) {
	s.t.Helper()
	s.page(`data-section="auto"`, `kith("event", "early")`, "")
	s.open("/")
	s.took("page", "early")
	s.optOut()
	return 2
}

// told waits for the n-th opt-out that reaches the gateway.
func (s *surfer) told(n int) asked {
	s.t.Helper()
	s.until(fmt.Sprintf("opt-out %d", n), func() bool {
		to := s.front.to("/v1/optout")
		return len(to) >= n && !to[n-1].left.IsZero()
	})
	return s.front.to("/v1/optout")[n-1]
}

// silent checks that the page sends no events and has no segments.
func (s *surfer) silent(events int) {
	s.t.Helper()
	before := len(s.front.to("/v1/events"))
	s.do(`kith("event", "late"); kith("identify", "account", "` + hexDigest + `"); kith("page")`)
	if got := s.segments(""); len(got) != 0 {
		s.t.Errorf("segments %v", got)
	}
	s.quiet()
	if n := len(s.front.to("/v1/events")); n != before || len(s.rig.taken()) != events {
		s.t.Errorf("%d more requests; events %v, want %d; asked %v", n-before, s.names(), events, s.front.all())
	}
}

func optOut(s *surfer) {
	events := s.optedOut()
	s.silent(events)
	s.open("/next")
	a := s.told(2)
	if a.body != `{"again":true}` || a.cookie != "kith_optout=1" {
		s.t.Errorf("the next page: %+v", a)
	}
	s.silent(events)
	if n := len(s.front.to("/v1/events")); n != 1 {
		s.t.Errorf("%d posts of events, want the first page's", n)
	}
	s.calm()
}

func optOutCookiesCleared(s *surfer) {
	events := s.optedOut()
	s.clearCookies()
	s.open("/")
	if a := s.told(2); a.cookie != "" || a.body != `{"again":true}` {
		s.t.Errorf("told again: %+v", a)
	}
	s.silent(events)
	s.open("/")
	if a := s.told(3); a.cookie != "kith_optout=1" {
		s.t.Errorf("the cookie was not restored: %+v", a)
	}
	s.silent(events)
}

func optOutStorageCleared(s *surfer) {
	events := s.optedOut()
	s.do("localStorage.clear()")
	s.open("/")
	s.until("the marker", func() bool { return s.stored("kith_optout") == "1" })
	if to := s.front.to("/v1/events"); len(to) != 2 || to[1].cookie != "kith_optout=1" {
		s.t.Errorf("posts of events: %+v", to)
	}
	s.silent(events)
	s.open("/")
	s.told(2)
	s.silent(events)
	if to := s.front.to("/v1/events"); len(to) != 2 {
		s.t.Errorf("%d posts of events after the marker was back", len(to)-2)
	}
}

func optOutInAnotherTab(s *surfer) {
	s.page("", "", "")
	s.open("/")
	s.took("page")
	s.do(`localStorage.kith_optout = 1`)
	s.silent(1)
}

func optOutUnheard(s *surfer) {
	s.open("/")
	s.took("page")
	s.quiet() // the answer came
	s.front.answers(func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	s.do(`await new Promise(done => kith("optout", done))`)
	if got := s.stored("kith_optout"); got != "0" {
		s.t.Errorf("the tag remembers %q", got)
	}
	s.front.answers(nil)
	s.open("/")
	if a := s.told(2); a.body != "{}" || !strings.HasPrefix(a.cookie, "kith_id=") {
		s.t.Errorf("told again: %+v", a)
	}
	s.until("the answer", func() bool { return s.stored("kith_optout") == "1" })
	s.silent(1)
	s.rig.mu.Lock()
	defer s.rig.mu.Unlock()
	if cuts := s.rig.graph.cuts; len(cuts) != 1 {
		s.t.Errorf("cuts %v", cuts)
	}
}

// optOutUnheardUnder is a part: what forbids all else does not forbid to say the
// person's own opt-out, once it is decided, until it is heard.
func optOutUnheardUnder(attributes, head, decide string) func(*surfer) {
	return func(s *surfer) {
		s.put("/plain", "<!doctype html>")
		s.open("/plain")
		s.do("localStorage.kith_optout = 0")
		s.page(attributes, head, "")
		s.open("/")
		if decide != "" {
			s.untouched()
			s.do(decide)
		}
		if a := s.told(1); a.body != "{}" {
			s.t.Errorf("told %+v", a)
		}
		s.until("the answer", func() bool { return s.stored("kith_optout") == "1" })
		s.silent(0)
		// Heard, it is not said again.
		s.open("/")
		s.do(decide)
		s.silent(0)
		if list, n := s.touchedBut("getItem kith_optout"), len(s.front.to("/v1/optout")); len(list) > 0 || n != 1 {
			s.t.Errorf("on the next page: %d opt-outs, storage was touched: %q", n-1, list)
		}
		s.calm()
	}
}

// optOutEarly: the first events are under way at the opt-out, and make a browser.
func optOutEarly(s *surfer) {
	let := make(chan struct{})
	once := sync.OnceFunc(func() { close(let) })
	s.t.Cleanup(once)
	s.front.answers(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/v1/events" {
			return false
		}
		s.rig.g.Public().ServeHTTP(w, r) // small: it is sent when this returns
		<-let
		return true
	})
	s.open("/")
	browser := s.took("page")[0].Identities[0]
	s.do(`await new Promise(done => kith("optout", done))`)
	once()
	if a := s.told(2); !strings.Contains(a.cookie, "kith_id="+browser.Value()) || a.body != "{}" {
		s.t.Errorf("told again: %+v", a)
	}
	s.rig.mu.Lock()
	defer s.rig.mu.Unlock()
	if cuts := s.rig.graph.cuts; len(cuts) != 1 || !strings.Contains(cuts[0], string(browser)) {
		s.t.Errorf("cuts %v, want %s", cuts, browser)
	}
}

// optInSince: on the gateway's own page, which is of this site, as here.
func optInSince(s *surfer) {
	events := s.optedOut()
	s.do(`await fetch("http://` + s.front.host + `/v1/optin", {method: "POST", credentials: "include"})`)
	s.open("/")
	s.until("a page view", func() bool { return len(s.rig.taken()) > events })
	all := s.rig.taken()
	if last := all[len(all)-1]; last.Name != "page" || last.Identities[0] == all[0].Identities[0] {
		s.t.Errorf("%s of %v, before of %v", last.Name, last.Identities, all[0].Identities)
	}
	if got := s.stored("kith_optout"); got != "" {
		s.t.Errorf("the tag remembers %q", got)
	}
	// Out once more, and nothing of the opt-in is left.
	s.optOut()
	events = len(s.rig.taken())
	s.open("/")
	if a := s.told(4); a.cookie != "kith_optout=1" {
		s.t.Errorf("told again: %+v", a)
	}
	s.silent(events)
}

// keptBefore leaves segments in the site's storage, as an earlier visit did.
const keptBefore = `localStorage.kith_segments = JSON.stringify({v: 1, c: "demo", t: Date.now(), s: ["old"]})`

func trackingSignals(s *surfer) {
	for _, signal := range []string{`globalPrivacyControl", {value: true}`, `doNotTrack", {value: "1"}`} {
		s.put("/plain", "<!doctype html>")
		s.open("/plain")
		s.do(keptBefore)
		s.page(`data-leaks="1"`, `Object.defineProperty(Navigator.prototype, "`+signal+`); kith("event", "early"); kith("segments", x => window.got = x)`, "")
		s.open("/")
		s.silent(0)
		s.do(`history.pushState(0, "", "/2")`)
		s.quiet()
		for _, a := range s.front.all() {
			if a.path != "/kith.js" {
				s.t.Errorf("%s: asked for %v", signal, a)
			}
		}
		if list := s.touchedBut("getItem kith_optout"); len(list) > 0 {
			s.t.Errorf("%s: storage was touched: %q", signal, list)
		}
		if got := s.stored("kith_segments"); got != "" {
			s.t.Errorf("%s: of an earlier visit there is still %s", signal, got)
		}
		if got := value[[]string](s, "window.got"); got == nil || len(got) != 0 {
			s.t.Errorf("%s: the call from before has %v", signal, got)
		}
		s.calm()
	}
}

// thirdParty: the gateway is on another site than the pages, and the browser gives
// each site's pages cookies of their own.
func thirdParty(s *surfer) {
	visit := func(host string) proto.Identity {
		s.t.Helper()
		n := len(s.rig.taken())
		s.open(s.at(host) + "/")
		s.until("a page view", func() bool { return len(s.rig.taken()) == n+1 })
		return s.rig.taken()[n].Identities[0]
	}
	a1, b1 := visit("a.test"), visit("b.test")
	a2, b2 := visit("a.test"), visit("b.test")
	if a1 != a2 || b1 != b2 || a1 == b1 {
		s.t.Errorf("a.test: %s, %s; b.test: %s, %s", a1, a2, b1, b2)
	}
	if to := s.front.to("/v1/events"); to[2].access != "none" {
		s.t.Errorf("the browser does not keep other sites' cookies apart: storage access %q", to[2].access)
	}
	// The opt-out is seen where it was said, though storage is cleared.
	s.open(s.at("a.test") + "/")
	s.until("a page view", func() bool { return len(s.rig.taken()) == 5 })
	s.optOut()
	s.do("localStorage.clear()")
	s.open(s.at("a.test") + "/")
	s.until("the marker", func() bool { return s.stored("kith_optout") == "1" })
	s.silent(5)
	to := s.front.to("/v1/events")
	if last := to[len(to)-1]; last.cookie != "kith_optout=1" {
		s.t.Errorf("the last post: %+v", last)
	}
	s.calm()
}

func leaving(s *surfer) {
	s.open("/")
	s.took("page")
	mode := func(name string) string {
		for _, a := range s.front.to("/v1/events") {
			if strings.Contains(a.body, `"`+name+`"`) {
				return a.mode
			}
		}
		return ""
	}
	taken, byeMode := 1, ""
	for try := 0; try < 5 && byeMode != "no-cors"; try++ { // a slow machine is still there when events are due
		bye := fmt.Sprint("bye", try)
		s.do(fmt.Sprintf(`setTimeout(() => { kith("event", %q); location.href = "/next?%d" })`, bye, try))
		taken += 2
		s.until("the beacon", func() bool { return slices.Contains(s.names(), bye) })
		s.until("the next page", func() bool { return len(s.rig.taken()) == taken })
		byeMode = mode(bye)
	}
	if byeMode != "no-cors" {
		s.t.Errorf("what was said when the page went came with %s", byeMode)
	}
	s.do(`kith("event", "hid");
		Object.defineProperty(document, "visibilityState", {value: "hidden"}); document.dispatchEvent(new Event("visibilitychange"))`)
	s.until("the beacon of a hidden page", func() bool { return slices.Contains(s.names(), "hid") })
	s.quiet()
	if events := s.rig.taken(); len(events) != taken+1 {
		s.t.Errorf("events %v", s.names())
	}
	if m := mode("hid"); m != "no-cors" {
		s.t.Errorf("what was said by a hidden page came with %s", m)
	}
	for _, e := range s.rig.taken() {
		if e.Identities[0] != s.rig.taken()[0].Identities[0] {
			s.t.Errorf("%s is of %v", e.Name, e.Identities)
		}
	}
}

// inSight tells the page that it came into sight or went out of it.
func (s *surfer) inSight(yes bool) {
	s.t.Helper()
	s.do(fmt.Sprintf(`Object.defineProperty(document, "hidden", {value: %t, configurable: true}); document.dispatchEvent(new Event("visibilitychange"))`, !yes))
}

// timeOnPage: each stretch in which a page is in sight is told once, under the url
// that it had.
func timeOnPage(s *surfer) {
	s.timed = true
	s.page("", "", "")
	began := time.Now()
	s.open("/a")
	s.took("page")
	s.quiet() // the answer came
	s.do(`history.pushState(0, "", "/b")`)
	s.took("page", "kith.leave", "page")
	s.quiet()
	s.inSight(false)
	s.took("page", "kith.leave", "page", "kith.leave")
	s.inSight(false) // says nothing new
	s.inSight(true)
	s.quiet()
	s.page("", unseen, "")
	s.open("/next")
	s.until("the last stretch and the next page", func() bool { return len(s.rig.taken()) == 6 })
	var on []string
	sum := 0.0
	for _, e := range s.rig.taken() {
		if e.Identities[0] != s.rig.taken()[0].Identities[0] {
			s.t.Errorf("%s is of %v", e.Name, e.Identities)
		}
		if e.Name != "kith.leave" {
			continue
		}
		seconds, ok := e.Prop("time_on_page")
		if !ok || seconds.Kind != proto.NumberValue || seconds.Number < 0.1 {
			s.t.Errorf("%s: %v s", e.URL, seconds)
		}
		sum += seconds.Number
		on = append(on, strings.TrimPrefix(e.URL, s.at("localhost")))
	}
	if d := cmp.Diff([]string{"/a", "/b", "/b"}, on); d != "" {
		s.t.Error(d)
	}
	if most := time.Since(began).Seconds(); sum > most {
		s.t.Errorf("%v s in sight, of %v", sum, most)
	}
	s.calm()
}

// timeUntold: who did not consent, or opted out, is not timed.
func timeUntold(s *surfer) {
	s.timed = true
	s.page(`data-consent="wait"`, "", "")
	s.open("/a")
	s.quiet()
	s.inSight(false)
	s.quiet()
	s.untouched()
	s.inSight(true)
	s.do(`kith("consent", true)`)
	s.until("the page view", func() bool { return len(s.rig.taken()) > 0 })
	s.quiet()
	s.optOut()
	n := len(s.rig.taken())
	s.inSight(false)
	s.inSight(true)
	s.open("/b")
	s.quiet()
	if got := s.names()[n:]; len(got) != 0 {
		s.t.Errorf("after the opt-out %v", got)
	}
}

// timeByClock: a clock that is set while the page is in sight changes nothing.
func timeByClock(s *surfer) {
	s.timed = true
	s.page("", "const now = Date.now; let skew = 0; Date.now = () => now() + skew", "")
	s.open("/a")
	s.took("page")
	s.quiet()
	for n, skew := range []string{"-3600e3", "36000e3"} {
		s.do("skew = " + skew)
		s.inSight(false)
		s.until("the stretch", func() bool { return len(s.rig.taken()) == n+2 })
		s.quiet()
		s.inSight(true)
	}
	for _, e := range s.rig.taken()[1:] {
		if seconds, _ := e.Prop("time_on_page"); seconds.Number <= 0 || seconds.Number > 60 {
			s.t.Errorf("%v s in sight", seconds.Number)
		}
	}
}

// referrersQuery: of the referrer's query only what may be search terms goes along,
// apart from it, and of a site that is no search engine it is not kept.
func referrersQuery(s *surfer) {
	s.open("/found?token=s3cret&q=blue+cars&x=1")
	s.took("page")
	s.do(`setTimeout(() => location.href = "/a?b=c")`)
	s.until("the next page", func() bool { return len(s.rig.taken()) == 2 })
	s.quiet()
	s.do(`history.pushState(0, "", "/b")`)
	s.took("page", "page", "page")
	var asked []string
	for _, a := range s.front.to("/v1/events") {
		if strings.Contains(a.body, "s3cret") {
			s.t.Errorf("sent %s", a.body)
		}
		asked = append(asked, fmt.Sprint(strings.Contains(a.body, `"ref_query":"&q=blue+cars"`)))
	}
	if d := cmp.Diff([]string{"false", "true", "false"}, asked); d != "" {
		s.t.Errorf("which post has terms: %s", d)
	}
	for _, e := range s.rig.taken() {
		if strings.Contains(fmt.Sprintf("%+v", e), "blue") {
			s.t.Errorf("kept %+v", e)
		}
	}
	s.calm()
}

// leavingEarly: when a page is loaded again the browser fails its requests, though
// they arrive; the page's last act must not be to send them again.
func leavingEarly(s *surfer) {
	s.front.answers(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/v1/events" {
			return false
		}
		s.rig.g.Public().ServeHTTP(w, r)
		time.Sleep(30 * time.Millisecond) // the answer is under way when the page goes
		return true
	})
	const pages = 6
	for n := range pages {
		s.open("/")
		s.until("a page view", func() bool { return len(s.rig.taken()) > n })
	}
	s.quiet()
	if events := s.rig.taken(); len(events) != pages {
		s.t.Errorf("%d events of %d pages: %v", len(events), pages, s.front.all())
	}
}

// leavingWithoutBeacons: some browsers have them turned off.
func leavingWithoutBeacons(s *surfer) {
	s.page("", `delete Navigator.prototype.sendBeacon`, "")
	s.open("/")
	s.took("page")
	s.quiet() // the answer came
	s.do(`kith("event", "hid");
		Object.defineProperty(document, "visibilityState", {value: "hidden"}); document.dispatchEvent(new Event("visibilitychange"))`)
	s.took("page", "hid")
	s.calm()
	s.do(`setTimeout(() => { kith("event", "bye"); location.href = "/next" })`)
	s.until("what was said last and the next page", func() bool { return len(s.rig.taken()) == 4 && slices.Contains(s.names(), "bye") })
	// What beacons do not carry is sent as ever.
	s.page("", `Navigator.prototype.sendBeacon = () => false`, "")
	s.open("/")
	s.until("a page view", func() bool { return len(s.rig.taken()) == 5 })
	s.quiet()
	s.do(`kith("event", "full"); document.dispatchEvent(new Event("visibilitychange"))`)
	s.until("the event", func() bool { return len(s.rig.taken()) == 6 && s.names()[5] == "full" })
	s.calm()
}

func blocked(s *surfer) {
	s.front.answers(func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusForbidden)
		return true
	})
	check := func(name string) {
		s.t.Helper()
		s.open("/")
		s.do(`for (let i = 0; i < 3; i++) kith("event", "click"); kith("segments", () => {}); kith("optout")`)
		if n := value[int](s, "kith.q.length"); n != 5 {
			s.t.Errorf("%s: %d calls wait", name, n)
		}
		s.calm()
	}
	check("refused by the server")
	host := s.front.host
	s.front.host = "localhost:1"
	s.page("", "", "")
	check("no connection")
	s.front.host = host
}

func slowGateway(s *surfer) {
	tag, events := make(chan struct{}), make(chan struct{})
	letTag, letEvents := sync.OnceFunc(func() { close(tag) }), sync.OnceFunc(func() { close(events) })
	s.t.Cleanup(letTag)
	s.t.Cleanup(letEvents)
	s.front.answers(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/kith.js" {
			<-tag
		} else {
			<-events
		}
		return false
	})
	s.put("/plain", "<!doctype html>")
	s.open("/plain")
	s.page("", `kith("event", "early")`, "<p>all of it")
	s.do(`setTimeout(() => { location.href = "/slow" })`)
	// The page is there and works while the tag is not.
	s.until("a page that works", func() bool {
		ok, err := run[bool](s.ctx, `location.pathname === "/slow" && document.readyState === "interactive" && document.body.textContent === "all of it" && kith.q.length === 1`)
		return ok && err == nil
	})
	letTag()
	s.until("load", func() bool {
		ok, err := run[bool](s.ctx, `document.readyState === "complete" && kith.v > 0`)
		return ok && err == nil
	})
	s.until("a request that waits", func() bool { return len(s.front.to("/v1/events")) == 1 })
	s.do(`kith("event", "more")`)
	s.quiet()
	// One at a time: the second would have no cookie yet.
	if n := len(s.front.to("/v1/events")); n != 1 || len(s.rig.taken()) != 0 {
		s.t.Errorf("%d requests, events %v", n, s.names())
	}
	letEvents()
	s.took("page", "early", "more")
	s.calm()
}

func securityPolicy(s *surfer) {
	s.csp = fmt.Sprintf("default-src 'none'; script-src 'self' http://%s; connect-src http://%s; img-src data:; require-trusted-types-for 'script'", s.front.host, s.front.host)
	s.put("/stub.js", stub+`kith("event", "early")`)
	s.put("/", fmt.Sprintf(`<!doctype html><link rel="icon" href="data:,"><script src="/stub.js"></script><script async src="http://%s/kith.js" data-client="demo" data-leaks="1" data-section="auto"></script>`, s.front.host))
	s.open("/")
	s.took("page", "early") // the latter of the section that its url has
	if got := s.segments(""); !slices.Equal(got, []string{"all", "auto", "home"}) {
		s.t.Errorf("segments %v", got)
	}
	s.optOut()
	s.calm()
}

func navigation(s *surfer) {
	then := func(script string) { s.do(script + `; await new Promise(done => setTimeout(done, 20))`) }
	walk := func() {
		then(`history.pushState(0, "", "/b?token=x")`)
		then(`history.replaceState(0, "", "/c")`)
		then(`history.pushState(0, "", "/c?page=2")`)
		then(`history.pushState(0, "", "/c#part"); history.pushState(0, "", "/d"); history.replaceState(0, "", "/c")`)
		s.do(`document.querySelector("script[data-client]").dataset.section = "moto"`)
		then(`history.pushState(0, "", "/e")`)
		s.do(`await new Promise(done => { addEventListener("popstate", () => setTimeout(done, 20), {once: true}); history.back() })`)
	}
	s.page(`data-section="auto"`, "", "")
	s.open("/a?x=1")
	walk()
	var got []string
	for _, e := range s.took("page", "page", "page", "page", "page") {
		section, _ := e.Prop("section")
		got = append(got, strings.ReplaceAll(e.Ref+" > "+e.URL+" "+section.Text, s.at("localhost"), ""))
	}
	if d := cmp.Diff([]string{" > /a auto", "/a > /b auto", "/b > /c auto", "/c > /e moto", "/e > /c moto"}, got); d != "" {
		s.t.Error(d)
	}
	s.page(`data-spa="off"`, "", "")
	s.open("/a")
	s.until("a page view", func() bool { return len(s.rig.taken()) == 6 })
	walk()
	s.quiet()
	if n := len(s.rig.taken()); n != 6 {
		s.t.Errorf("%d page views with data-spa=off", n-5)
	}
	s.calm()
}

// hasten makes the tag's waits a hundredth of what they are, and notes them; not
// the bounds of requests.
const hasten = `window.delays = [];
const later = setTimeout; window.setTimeout = (f, ms, ...rest) => { if (ms > 200 && ms !== 1e4 && ms !== 3e3) { if (ms !== 1e3) delays.push(ms); ms /= 100 } return later(f, ms, ...rest) };`

func (s *surfer) failing(fail func(i int, e *proto.Event) bool, why error) {
	s.rig.mu.Lock()
	defer s.rig.mu.Unlock()
	s.rig.fail, s.rig.failErr = fail, why
}

func retryAfter503(s *surfer) {
	down := &proto.Error{Code: proto.CodeUnavailable, Message: "the log has no leader", RetryAfter: 5 * time.Second}
	s.failing(func(int, *proto.Event) bool { return true }, down)
	s.page("", hasten+`kith("event", "early")`, "")
	s.open("/")
	s.until("two refusals", func() bool { to := s.front.to("/v1/events"); return len(to) >= 2 && !to[1].left.IsZero() })
	s.do(`kith("event", "meanwhile")`)
	s.failing(nil, nil)
	s.took("page", "early", "meanwhile")
	to := s.front.to("/v1/events")
	for _, d := range value[[]float64](s, "delays") {
		if d < 5000 || d > 7500 {
			s.t.Errorf("waited %v ms, was told 5 s", d)
		}
	}
	for _, a := range to[:len(to)-1] {
		if a.body != to[0].body {
			s.t.Errorf("sent %s, then %s", to[0].body, a.body)
		}
	}
	if last := to[len(to)-1]; !strings.Contains(last.body, `"meanwhile"`) || strings.Contains(last.body, `"early"`) {
		s.t.Errorf("last %s", last.body)
	}
	s.calm()
}

func retryOfSome(s *surfer) {
	times := 0
	s.failing(func(_ int, e *proto.Event) bool {
		if e.Name == "two" {
			times++
		}
		return e.Name == "two" && times < 3
	}, proto.Errorf(proto.CodeUnavailable, "a lane has no leader"))
	s.page("", hasten+`kith("event", "one"); kith("event", "two"); kith("event", "three")`, "")
	s.open("/")
	s.took("page", "one", "three", "two")
	s.quiet()
	to := s.front.to("/v1/events")
	if len(to) != 3 || strings.Contains(to[1].body, `"one"`) || to[1].body != to[2].body {
		s.t.Errorf("%+v", to)
	}
	s.calm()
}

// retryOfLostAnswer: the gateway kept the events, the tag cannot know. That the
// same ids count once is the engine's to do.
func retryOfLostAnswer(s *surfer) {
	s.page("", hasten, "")
	s.open("/")
	s.took("page")
	var once sync.Once
	s.front.answers(func(w http.ResponseWriter, r *http.Request) (done bool) {
		if r.URL.Path == "/v1/events" {
			once.Do(func() {
				done = true
				s.rig.g.Public().ServeHTTP(httptest.NewRecorder(), r)
				c, _, err := http.NewResponseController(w).Hijack()
				if err == nil {
					_ = c.Close()
				}
			})
		}
		return done
	})
	s.do(`kith("event", "click")`)
	events := s.took("page", "click", "click")
	if events[1].ID == "" || events[1].ID != events[2].ID || events[1].Identities[0] != events[2].Identities[0] {
		s.t.Errorf("%+v, then %+v", events[1], events[2])
	}
	s.calm()
}

// retryAfterSleep: the answer breaks off while the machine sleeps, for longer than nodes
// remember ids.
func retryAfterSleep(s *surfer) {
	s.page("", hasten, "")
	s.open("/")
	s.took("page")
	came, let := make(chan struct{}), make(chan struct{})
	awake := sync.OnceFunc(func() { close(let) })
	s.t.Cleanup(awake)
	s.front.answers(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/v1/events" {
			return false
		}
		s.rig.g.Public().ServeHTTP(httptest.NewRecorder(), r)
		close(came)
		<-let
		w.WriteHeader(http.StatusBadGateway) // which the page may not read; a connection that breaks the browser tries again by itself
		return true
	})
	s.do(`kith("event", "click")`)
	select {
	case <-came:
	case <-s.ctx.Done():
		s.t.Fatal("the event never came")
	}
	s.front.answers(nil)
	s.do(`const clock = Date.now; Date.now = () => clock() + 36e5`)
	awake()
	s.until("the end", func() bool { return value[string](s, "warned.join()") == "kith: lost: 1" })
	s.do(`kith("event", "after")`)
	s.took("page", "click", "after")
	s.calm()
}

// retryOfOthersAnswer: a 200 that is not the gateway's, or that breaks off, accepted
// nothing.
func retryOfOthersAnswer(s *surfer) {
	for _, body := range []string{"<!doctype html>You are offline.", "{}", `{"accepted":1,"refu`} {
		before := len(s.rig.taken())
		var once sync.Once
		s.front.answers(func(w http.ResponseWriter, r *http.Request) (done bool) {
			if r.URL.Path == "/v1/events" {
				once.Do(func() {
					done = true
					w.Header().Set("Access-Control-Allow-Origin", r.Header.Get("Origin"))
					w.Header().Set("Access-Control-Allow-Credentials", "true")
					_, _ = io.WriteString(w, body)
				})
			}
			return done
		})
		s.page("", hasten, "")
		s.open("/")
		s.until("the page view, after "+body, func() bool { return len(s.rig.taken()) > before })
		s.quiet()
		if n := len(s.rig.taken()); n != before+1 {
			s.t.Errorf("after %s: %d events", body, n-before)
		}
		s.calm()
	}
}

// retriesEndApart: what comes while others are tried for the last time is not given up
// with them.
func retriesEndApart(s *surfer) {
	const fails = 6
	tried, let := make(chan struct{}), make(chan struct{})
	once := sync.OnceFunc(func() { close(let) })
	s.t.Cleanup(once)
	n := 0
	s.front.answers(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/v1/events" {
			return false
		}
		if n++; n > fails { // one request at a time
			return false
		}
		if n == fails-1 {
			close(tried)
			<-let
		}
		w.WriteHeader(http.StatusBadGateway)
		return true
	})
	s.page("", hasten, "")
	s.open("/")
	s.until("the last try but one", func() bool {
		select {
		case <-tried:
			return true
		default:
			return false
		}
	})
	s.do(`kith("event", "late")`)
	once()
	s.took("late")
	if got := value[[]string](s, "warned"); len(got) != 1 || !strings.Contains(got[0], "lost: 1") {
		s.t.Errorf("warned %q", got)
	}
	s.calm()
}

func retriesEnd(s *surfer) {
	s.front.answers(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/kith.js" {
			return false
		}
		w.WriteHeader(http.StatusBadGateway) // a proxy's, which the page may not read
		return true
	})
	s.page("", hasten, "")
	s.open("/")
	s.until("the end", func() bool { return value[int](s, "warned.length") > 0 })
	delays := value[[]float64](s, "delays")
	if to := s.front.to("/v1/events"); len(to) != 6 || len(delays) != 5 {
		s.t.Fatalf("sent %d times, waited %v", len(to), delays)
	}
	for i, d := range delays {
		if least := 1000 * float64(int(1)<<i); d < least || d > 1.5*least {
			s.t.Errorf("wait %d is %v ms, want %v to %v", i+1, d, least, 1.5*least)
		}
	}
	// The queue is bounded.
	s.do(`for (let i = 0; i < 500; i++) kith("event", "flood")`)
	if got := value[[]string](s, "warned"); len(got) != 401 || !strings.Contains(got[0], "lost: 1") {
		s.t.Errorf("%d warnings, the first %q", len(got), got[0])
	}
	s.front.answers(nil)
	s.until("the rest", func() bool { return len(s.rig.taken()) == 100 })
	s.quiet()
	if n := len(s.rig.taken()); n != 100 || s.rig.taken()[0].Name != "flood" {
		s.t.Errorf("%d events, the first %q", n, s.rig.taken()[0].Name)
	}
	for _, a := range s.front.to("/v1/events") {
		if len(a.body) > 64<<10 || strings.Count(a.body, `"id"`) > 20 {
			s.t.Errorf("a body of %d bytes with %d events", len(a.body), strings.Count(a.body, `"id"`))
		}
	}
	s.calm()
}

func identifyDigests(s *surfer) {
	s.open("/")
	s.took("page")
	bad := [][2]string{
		{"account", "jane.doe@example.com"}, {"account", "JANE%40EXAMPLE.COM"}, {"account", "jane"}, {"account", "maximilian_mustermann_von_und_zu_musterstad"},
		{"account", "MaximilianMustermann1980"}, {"account", hexDigest[:31]}, {"account", hexDigest + "0"}, {"account", base64Digest[:42]}, {"account", "+49 170 1234567"}, {"account", ""},
		{"email", hexDigest}, {"browser", hexDigest}, {"account", "38400000-8cf0-11bd-b23e-10b96e40000d"},
	}
	for _, x := range bad {
		s.do(fmt.Sprintf("kith('identify', %q, %q)", x[0], x[1]))
	}
	s.do(`kith("identify"); kith("identify", "account"); kith("identify", "account", {}); kith("identify", "account", null)`)
	s.quiet()
	warned := value[[]string](s, "warned")
	if len(warned) != len(bad)+4 || !strings.HasPrefix(warned[0], "kith: not sent: no digest") {
		s.t.Errorf("%d warnings of %d: %q", len(warned), len(bad)+4, warned)
	}
	s.do(`kith("identify", "account", "` + hexDigest + `", "1795348800.00"); kith("identify", "account", "` + hexDigest[:32] + `"); kith("identify", "account", "` + base64Digest + `")`)
	var got []proto.Identity
	for _, e := range s.took("page", "identify", "identify", "identify")[1:] {
		got = append(got, e.Identities[1])
	}
	if d := cmp.Diff([]proto.Identity{"account:" + hexDigest, proto.Identity("account:" + hexDigest[:32]), "account:" + base64Digest}, got); d != "" {
		s.t.Error(d)
	}
	for _, a := range s.front.to("/v1/events") {
		if strings.ContainsAny(a.body, "@%") || strings.Contains(a.body, "example") || strings.Contains(a.body, "ustermann") {
			s.t.Errorf("sent %s", a.body)
		}
	}
	s.calm()
}

func notSent(s *surfer) {
	s.open("/")
	s.took("page")
	s.do(`const round = {}; round.round = round; kith("event", "round", round); kith("event", "big", {n: 1n}); kith("event", "large", {t: "x".repeat(3e4)});
		kith("segments"); kith("segments", 1); kith("toString"); kith("nothing"); kith("event", "last")`)
	s.took("page", "last")
	if got := value[[]string](s, "warned"); len(got) != 5 {
		s.t.Errorf("%q", got)
	}
	// The gateway's own refusal is passed on to who looks into the console.
	s.do(`kith("event", "", {})`)
	s.until("a warning", func() bool { return strings.Contains(value[string](s, "warned.join()"), "refused: ") })
	s.calm()
}

// tcf is a consent platform, as much as a tag sees of one.
const tcf = `window.__tcfapi = (command, version, cb) => { if (command === "addEventListener" && version === 2) window.decide = x => cb(x, true) };`

// wrongCalls: none throws into the page, nor keeps the tag from what was said
// before and after it.
func wrongCalls(s *surfer) {
	wrong := []string{`Symbol("a")`, `"identify", "account", Symbol("a")`, `"identify", "account", {toString() { throw Error("a") }}`, `Object.create(null)`, ``, `"nothing"`, `"event", "big", {n: 1n}`}
	calls := `kith("event", "one"); ` + "kith(" + strings.Join(wrong, "); kith(") + `); kith.q.push(5); kith.q.push(undefined); kith("event", "two"); `
	s.page("", calls, "")
	s.open("/")
	s.took("page", "one", "two")
	s.do(calls)
	s.took("page", "one", "two", "one", "two")
	if got := value[int](s, "warned.length"); got != 2*(len(wrong)+2) {
		s.t.Errorf("%d warnings of %d", got, 2*(len(wrong)+2))
	}
	s.calm()
}

// twoTags: the second does nothing, also where both wait for the page to be shown.
func twoTags(s *surfer) {
	s.page("", `Object.defineProperty(document, "prerendering", {value: true}); kith("event", "one")`, `<script src="http://`+s.front.host+`/kith.js" data-client="demo"></script>`)
	s.open("/")
	s.quiet()
	if asked := s.front.to("/v1/events"); len(asked) != 0 {
		s.t.Errorf("before it is shown: %v", asked)
	}
	s.do(`document.dispatchEvent(new Event("prerenderingchange"))`)
	s.took("page", "one")
	s.do(`history.pushState(0, "", "/two")`)
	s.took("page", "one", "page")
	s.quiet()
	s.took("page", "one", "page")
	s.calm()
}

// tcData is what the platform says of a person; yes are purposes.
func tcData(status, tc string, yes ...int) string {
	var p []string
	for _, n := range yes {
		p = append(p, fmt.Sprintf("%d: true", n))
	}
	return fmt.Sprintf(`decide({eventStatus: %q, gdprApplies: true, tcString: %q, purpose: {consents: {%s}}, vendor: {consents: {12: true}}})`, status, tc, strings.Join(p, ", "))
}

// touchedBut is what the page did with its storage, but for what is let be.
func (s *surfer) touchedBut(let ...string) []string {
	s.t.Helper()
	return slices.DeleteFunc(value[[]string](s, "touched"), func(k string) bool { return slices.Contains(let, k) })
}

// untouched checks that nothing was sent, stored or read.
func (s *surfer) untouched() {
	s.t.Helper()
	s.untouchedBut()
}

// refused checks the same after a no: of what is stored only whether there is an
// opt-out was read.
func (s *surfer) refused() {
	s.t.Helper()
	s.untouchedBut("getItem kith_optout")
}

func (s *surfer) untouchedBut(let ...string) {
	s.t.Helper()
	s.quiet()
	for _, a := range s.front.all() {
		if a.path != "/kith.js" {
			s.t.Errorf("asked for %v", a)
		}
	}
	if list := s.touchedBut(let...); len(list) > 0 {
		s.t.Errorf("storage was touched: %q", list)
	}
}

func consentTCF(s *surfer) {
	for _, how := range []string{"", `data-consent="tcf"`} {
		s.page(how, tcf+`kith("event", "early"); kith("segments", x => window.got = x)`, "")
		s.open("/")
		s.untouched()
		s.do(tcData("cmpuishown", consented, 1, 3, 4)) // what was said once, and is asked again
		s.untouched()
		if value[bool](s, "!!window.got") {
			s.t.Error("segments were told before the decision")
		}
		s.do(tcData("tcloaded", refused, 1, 2, 4))
		s.refused()
		if got := value[[]string](s, "window.got"); got == nil || len(got) != 0 {
			s.t.Errorf("refused: segments %v", got)
		}
		s.silent(0)
		s.refused()
	}
	// Consent to all but the vendor.
	s.page(`data-vendor="7"`, tcf, "")
	s.open("/")
	s.do(tcData("tcloaded", consented, 1, 3, 4))
	s.refused()
	s.page(`data-vendor="12" data-section="auto"`, tcf+`kith("event", "early"); kith("segments", x => window.got = x)`, "")
	s.open("/")
	s.untouched()
	s.do(tcData("useractioncomplete", consented, 1, 3, 4))
	s.took("page", "early")
	if q := s.front.to("/v1/events")[0].query; q != "gdpr=1&gdpr_consent="+consented {
		s.t.Errorf("query %q", q)
	}
	s.until("segments", func() bool { return value[bool](s, "Array.isArray(window.got)") })
	if q := s.front.to("/v1/me/segments")[0].query; !strings.HasSuffix(q, "&gdpr=1&gdpr_consent="+consented) {
		s.t.Errorf("query %q", q)
	}
	s.quiet() // what a newcomer was told before is not kept
	s.segments(", 0")
	if s.stored("kith_segments") == "" {
		s.t.Error("segments are not kept")
	}
	// A beacon carries the consent too.
	s.do(`kith("event", "hid"); Object.defineProperty(document, "visibilityState", {value: "hidden"}); document.dispatchEvent(new Event("visibilitychange"))`)
	s.took("page", "early", "hid")
	// Withdrawn: what was kept goes.
	s.do(tcData("useractioncomplete", refused, 1))
	s.silent(3)
	if got := s.stored("kith_segments"); got != "" {
		s.t.Errorf("after consent was withdrawn there is %s", got)
	}
	// Withdrawn where the tag was not.
	s.do(keptBefore)
	s.open("/")
	s.do(tcData("tcloaded", refused, 1))
	s.silent(3)
	if got := s.stored("kith_segments"); got != "" {
		s.t.Errorf("consent was withdrawn before the page, and there is %s", got)
	}
	// Where the GDPR does not apply.
	s.page("", tcf, "")
	s.open("/")
	s.do(`decide({eventStatus: "tcloaded", gdprApplies: false})`)
	s.took("page", "early", "hid", "page")
	s.calm()
}

// consentTCFReadCloser: the platform's own reading says yes, its string does not.
func consentTCFReadCloser(s *surfer) {
	s.page("", tcf, "")
	s.open("/")
	s.do(tcData("tcloaded", refused, 1, 3, 4))
	s.until("a refusal", func() bool { to := s.front.to("/v1/events"); return len(to) == 1 && !to[0].left.IsZero() })
	s.do(`kith("event", "late")`)
	s.quiet()
	if n := len(s.front.to("/v1/events")); n != 1 {
		s.t.Errorf("%d posts after the refusal", n-1)
	}
	s.silent(0)
	if got := s.stored("kith_optout"); got != "" {
		s.t.Errorf("no consent is taken for an opt-out: %q", got)
	}
	if w := s.rig.taken(); len(w) != 0 {
		s.t.Errorf("events %v", s.names())
	}
}

func consentMissing(s *surfer) {
	for consent, want := range map[string]string{"tcf": "no __tcfapi", "gpp": "no __gpp", "tfc": "no data-consent"} {
		s.page(fmt.Sprintf("data-consent=%q", consent), hasten+`kith("segments", x => window.got = x)`, "")
		s.open("/")
		s.until("the end", func() bool { return strings.Contains(value[string](s, "warned.join()"), want) })
		if got := value[[]string](s, "window.got"); got == nil || len(got) != 0 {
			s.t.Errorf("segments %v", got)
		}
		s.refused()
	}
	// One that comes late.
	s.page(`data-consent="tcf"`, "", "")
	s.open("/")
	s.do(tcf)
	s.until("the tag's question", func() bool { return value[bool](s, "!!window.decide") })
	s.do(tcData("tcloaded", consented, 1, 3, 4))
	s.took("page")
}

// gpp is a platform of the GPP, and national the header of a string with the
// section of the USA.
const (
	gpp      = `window.__gpp = (command, cb) => { if (command === "addEventListener") window.decideGPP = x => cb({eventName: "signalStatus", data: x.signalStatus, pingData: x}) };`
	national = "DBABLA~"
)

// tellGPP is what the platform says.
func (s *surfer) tellGPP(status, sections, text, parsed string) {
	s.t.Helper()
	s.do(fmt.Sprintf(`decideGPP({signalStatus: %q, applicableSections: [%s], gppString: %q, parsedSections: %s})`, status, sections, text, parsed))
}

// consentBoth: a page has both platforms, and each counts where its law does.
func consentBoth(s *surfer) {
	const elsewhere = `decide({eventStatus: "tcloaded", gdprApplies: false})`
	out, in := national+usSection(1, 6, 1, 2, 2), national+usSection(1, 6, 2, 2, 2)
	usa := func(text string, sale int) {
		s.tellGPP("ready", "7", text, fmt.Sprintf(`{usnat: [{SaleOptOut: %d, SharingOptOut: 2, TargetedAdvertisingOptOut: 2}]}`, sale))
	}
	visit := func() {
		s.page("", tcf+gpp, "")
		s.open("/")
	}
	visit()
	s.do(elsewhere)
	s.untouched() // the other has not said anything
	usa(out, 1)
	s.silent(0)
	s.refused()
	visit()
	usa(out, 1)
	s.untouched()
	s.do(elsewhere)
	s.silent(0)
	s.refused()
	// They disagree on where the visitor is.
	visit()
	s.do(elsewhere)
	s.tellGPP("ready", "2", in, "{}")
	s.silent(0)
	s.refused()
	visit()
	s.do(elsewhere)
	usa(in, 2)
	s.took("page")
	usa(out, 1) // and then opts out
	s.silent(1)
	visit()
	s.tellGPP("ready", "2", in, "{}")
	s.do(tcData("tcloaded", consented, 1, 3, 4))
	s.took("page", "page")
	var queries []string
	for _, a := range s.front.to("/v1/events") {
		queries = append(queries, a.query)
	}
	if d := cmp.Diff([]string{"gdpr=0&gpp=" + in + "&gpp_sid=7", "gdpr=1&gdpr_consent=" + consented}, queries); d != "" {
		s.t.Error(d)
	}
	s.calm()
}

func consentGPP(s *surfer) {
	tell := s.tellGPP
	in := national + usSection(1, 6, 2, 2, 2)
	s.page("", gpp, "")
	s.open("/")
	tell("not ready", "", "", "{}")
	s.untouched()
	tell("ready", "7", national+usSection(1, 6, 1, 2, 2), `{usnat: [{SaleOptOut: 1, SharingOptOut: 2}, {GpcSegmentType: 1, Gpc: false}]}`)
	s.silent(0)
	s.refused()
	s.open("/")
	tell("ready", "7", in, `{usnat: [{SaleOptOut: 2}, {GpcSegmentType: 1, Gpc: true}]}`)
	s.silent(0)
	s.refused()
	// The TCF is in force, and nobody asks for its consent here.
	s.page(`data-consent="gpp"`, hasten+gpp, "")
	s.open("/")
	tell("ready", "2", in, `{}`)
	s.until("the end", func() bool { return value[int](s, "warned.length") == 1 })
	s.silent(0)
	s.refused()
	s.page("", gpp, "")
	s.open("/")
	tell("ready", "7", in, `{usnat: [{SaleOptOut: 2, SharingOptOut: 2, TargetedAdvertisingOptOut: 2}]}`)
	s.took("page")
	if q := s.front.to("/v1/events")[0].query; q != "gpp="+in+"&gpp_sid=7" {
		s.t.Errorf("query %q", q)
	}
	// What the tag does not see in it, the gateway does.
	s.open("/")
	tell("ready", "7", national+usSection(1, 6, 1, 2, 2), `{}`)
	s.until("a refusal", func() bool { to := s.front.to("/v1/events"); return len(to) == 2 && !to[1].left.IsZero() })
	s.quiet()
	s.silent(1)
	s.calm()
}

// consentAround: the tag is in a frame, and the platform's frame is beside it, or around
// that one; between them may be a page of another origin.
func consentAround(s *surfer) {
	const says = `console.warn = text => top.postMessage(text, "*");`
	doc := func(locator, frame string) string {
		return fmt.Sprintf(`<!doctype html><title>around</title><script>window.said = []; addEventListener("message", e => said.push(e.data))</script>%s<iframe src=%q></iframe>`, locator, frame)
	}
	for locator, want := range map[string]string{"__tcfapiLocator": "no __tcfapi", "__gppLocator": "no __gpp"} {
		named := fmt.Sprintf(`<iframe name=%q></iframe>`, locator)
		for _, around := range []struct{ outer, inner string }{{doc(named, s.at("b.test")+"/"), ""}, {doc(named, s.at("b.test")+"/inner"), doc("", s.at("localhost")+"/")}, {doc(named, s.at("a.test")+"/"), ""}} {
			s.page("", hasten+says, "")
			s.put("/outer", around.outer)
			s.put("/inner", around.inner)
			s.open(s.at("a.test") + "/outer")
			s.until("the end, with "+locator, func() bool { return strings.Contains(value[string](s, "said.join()"), want) })
			s.quiet()
			for _, a := range s.front.all() {
				if a.path != "/kith.js" {
					s.t.Errorf("with %s: asked for %v", locator, a)
				}
			}
		}
	}
	// Without one, or where the tag is told that nobody is to be asked.
	s.put("/outer", doc("", s.at("b.test")+"/"))
	s.open(s.at("a.test") + "/outer")
	s.took("page")
	s.page(`data-consent="none"`, "", "")
	s.put("/outer", doc(`<iframe name="__tcfapiLocator"></iframe>`, s.at("b.test")+"/"))
	s.open(s.at("a.test") + "/outer")
	s.took("page", "page")
}

func consentOwn(s *surfer) {
	s.page(`data-consent="wait"`, `kith("event", "early")`, "")
	s.open("/")
	s.do(`history.pushState(0, "", "/2"); await new Promise(done => setTimeout(done, 20))`)
	s.untouched()
	s.do(`kith("consent", true)`)
	events := s.took("page", "early", "page")
	if events[0].URL == events[2].URL {
		s.t.Errorf("both page views are of %s", events[0].URL)
	}
	s.segments(", 0")
	s.do(`kith("consent", false)`)
	s.silent(3)
	s.do(`kith("consent", true); kith("event", "again")`)
	s.took("page", "early", "page", "again")

	n := len(s.front.to("/v1/events"))
	s.page(`data-consent="wait"`, `kith("consent", false)`, "")
	s.open("/")
	s.silent(4)
	if len(s.touchedBut("getItem kith_optout")) > 0 || len(s.front.to("/v1/events")) != n {
		s.t.Error("refused in advance, and something was sent or stored")
	}
	s.page("", `kith("consent", false)`, "")
	s.open("/")
	s.silent(4)
	s.page(`data-consent="wait"`, `kith("consent", true)`, "")
	s.open("/")
	s.took("page", "early", "page", "again", "page")
	s.calm()
}

// consentAgain: what waited for a retry is gone with the consent, and what comes after
// does not go in its place.
func consentAgain(s *surfer) {
	for _, when := range []string{"0", "1200"} { // the request is under way, or waits to be sent again
		s.front.answers(func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path == "/v1/events" {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			return r.URL.Path == "/v1/events"
		})
		before := len(s.front.to("/v1/events"))
		s.page(`data-consent="wait"`, `kith("consent", true)`, "")
		s.open("/")
		s.until("a request", func() bool { return len(s.front.to("/v1/events")) > before })
		s.do(`await new Promise(done => setTimeout(done, ` + when + `)); kith("consent", false); await new Promise(done => setTimeout(done, 1400))`)
		s.front.answers(nil)
		before, events := len(s.front.to("/v1/events")), len(s.rig.taken())
		s.do(`kith("consent", true); for (const name of ["a", "b", "c"]) kith("event", name)`)
		s.until("the events", func() bool { return len(s.rig.taken()) >= events+3 })
		if got := s.names()[events:]; !slices.Equal(got, []string{"a", "b", "c"}) {
			s.t.Errorf("after %s ms: events %v", when, got)
		}
		if to := s.front.to("/v1/events")[before:]; len(to) != 1 {
			s.t.Errorf("after %s ms: %d requests instead of one: %v", when, len(to), to)
		}
	}

	// Withdrawn and given again while a request is under way, which then fails.
	given := make(chan struct{})
	s.front.answers(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/v1/events" {
			<-given
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		return r.URL.Path == "/v1/events"
	})
	before := len(s.front.to("/v1/events"))
	s.page(`data-consent="wait"`, `kith("consent", true)`, "")
	s.open("/")
	s.until("a request", func() bool { return len(s.front.to("/v1/events")) > before })
	s.do(`kith("consent", false); kith("consent", true); kith("event", "d")`)
	s.front.answers(nil)
	events := len(s.rig.taken())
	close(given)
	s.until("the event", func() bool { return len(s.rig.taken()) > events })
	s.quiet()
	if got := s.names()[events:]; !slices.Equal(got, []string{"d"}) {
		s.t.Errorf("given again meanwhile: events %v", got)
	}
	s.calm()
}

func hosts(s *surfer) {
	pictures := func(hosts ...string) (body string) {
		for _, h := range hosts {
			body += `<img src="` + s.at(h) + `/i.gif?user=jane">`
		}
		return body
	}
	s.page(`data-leaks="20"`, "", pictures("ads.test", "a.test", "cdn.ads.test", "localhost", "static.a.test", "ads.test"))
	s.open(s.at("www.a.test") + "/")
	e := s.took("page", "kith.hosts")[1]
	list, _ := e.Prop("hosts")
	left, _ := e.Prop("left")
	got := strings.Fields(list.Text)
	slices.Sort(got)
	// localhost is another site here, but the gateway's.
	if !slices.Equal(got, []string{"ads.test", "cdn.ads.test"}) || left != proto.NumberOf(0) {
		s.t.Errorf("%+v", e)
	}
	s.do(`history.pushState(0, "", "/2"); new Image().src = "http://late.test:` + s.port + `/"; await new Promise(done => setTimeout(done, 100))`)
	s.quiet()
	if n := strings.Count(strings.Join(s.names(), " "), "kith.hosts"); n != 1 {
		s.t.Errorf("%d reports of one page", n)
	}
	var many []string
	for i := range 60 {
		many = append(many, fmt.Sprintf("h%d.test", i))
	}
	s.page(`data-leaks="20"`, "", pictures(many...))
	s.open("/")
	s.until("a report", func() bool { return strings.Count(strings.Join(s.names(), " "), "kith.hosts") == 2 })
	all := s.rig.taken()
	e = all[len(all)-1]
	list, _ = e.Prop("hosts")
	left, _ = e.Prop("left")
	if n := len(strings.Fields(list.Text)); n != 50 || left != proto.NumberOf(10) {
		s.t.Errorf("%d hosts, left %v", n, left)
	}
	// Not asked for: nothing is told; leaving early: at once.
	s.page(`data-leaks`, "", pictures("ads.test"))
	s.open("/")
	s.until("a page view", func() bool { return s.names()[len(s.names())-1] == "page" })
	s.page("", "", pictures("ads.test"))
	s.open("/")
	s.until("a report on leaving", func() bool { return strings.Count(strings.Join(s.names(), " "), "kith.hosts") == 3 })
	s.quiet()
	if n := strings.Count(strings.Join(s.names(), " "), "kith.hosts"); n != 3 {
		s.t.Errorf("%d reports", n)
	}
	s.calm()
}
