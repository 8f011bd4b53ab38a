package gateway_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	gproto "google.golang.org/protobuf/proto"

	"kith/gateway"
	"kith/proto"
	"kith/proto/pb"
)

// User agents as browsers of today send them.
const (
	chromeAgent  = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36"
	firefoxAgent = "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0"
	iphoneAgent  = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.6 Mobile/15E148 Safari/604.1"
	googleAgent  = "Mozilla/5.0 (Linux; Android 6.0.1; Nexus 5X Build/MMB29P) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Mobile Safari/537.36 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"
)

func TestAgents(t *testing.T) {
	robot := gateway.Agent{Device: "bot", Bot: true}
	for text, want := range map[string]gateway.Agent{
		chromeAgent:  {Browser: "chrome", OS: "windows", Device: "desktop"},
		firefoxAgent: {Browser: "firefox", OS: "linux", Device: "desktop"},
		iphoneAgent:  {Browser: "safari", OS: "ios", Device: "phone"},
		googleAgent:  robot,
		"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36 Edg/142.0.0.0":                                                             {Browser: "edge", OS: "windows", Device: "desktop"},
		"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36 OPR/125.0.0.0":                                                             {Browser: "opera", OS: "windows", Device: "desktop"},
		"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.6 Safari/605.1.15":                                                                     {Browser: "safari", OS: "macos", Device: "desktop"},
		"Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36":                                                                            {Browser: "chrome", OS: "chrome os", Device: "desktop"},
		"Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Mobile Safari/537.36":                                                                           {Browser: "chrome", OS: "android", Device: "phone"},
		"Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36":                                                                                  {Browser: "chrome", OS: "android", Device: "tablet"},
		"Mozilla/5.0 (Linux; Android 14; SM-S921B) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/28.0 Chrome/130.0.0.0 Mobile Safari/537.36":                                                {Browser: "samsung internet", OS: "android", Device: "phone"},
		"Mozilla/5.0 (Android 14; Mobile; rv:145.0) Gecko/145.0 Firefox/145.0":                                                                                                                      {Browser: "firefox", OS: "android", Device: "phone"},
		"Mozilla/5.0 (Android 14; Tablet; rv:145.0) Gecko/145.0 Firefox/145.0":                                                                                                                      {Browser: "firefox", OS: "android", Device: "tablet"},
		"Mozilla/5.0 (iPad; CPU OS 12_5_7 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/12.1.2 Mobile/15E148 Safari/604.1":                                                        {Browser: "safari", OS: "ios", Device: "tablet"},
		"Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) CriOS/142.0.7444.46 Mobile/15E148 Safari/604.1":                                            {Browser: "chrome", OS: "ios", Device: "phone"},
		"Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) FxiOS/145.0 Mobile/15E148 Safari/605.1.15":                                                 {Browser: "firefox", OS: "ios", Device: "phone"},
		"Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148 [FBAN/FBIOS;FBAV/470.0.0.36.108;FBDV/iPhone15,2]":                            {Browser: "facebook", OS: "ios", Device: "phone"},
		"Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148":                                                                             {Browser: "webview", OS: "ios", Device: "phone"},
		"Mozilla/5.0 (Linux; Android 13; Pixel 7 Build/TQ3A; wv) AppleWebKit/537.36 (KHTML, like Gecko) Version/4.0 Chrome/142.0.0.0 Mobile Safari/537.36":                                          {Browser: "webview", OS: "android", Device: "phone"},
		"Mozilla/5.0 (Linux; U; Android 4.0.3; de-de; GT-I9100 Build/IML74K) AppleWebKit/534.30 (KHTML, like Gecko) Version/4.0 Mobile Safari/534.30":                                               {Browser: "android browser", OS: "android", Device: "phone"},
		"Mozilla/5.0 (SMART-TV; LINUX; Tizen 6.0) AppleWebKit/537.36 (KHTML, like Gecko) 76.0.3809.146/6.0 TV Safari/537.36":                                                                        {Browser: "safari", OS: "tizen", Device: "tv"},
		"Mozilla/5.0 (Web0S; Linux/SmartTV) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/94.0.4606.128 Safari/537.36 WebAppManager":                                                                {Browser: "chrome", OS: "webos", Device: "tv"},
		"Mozilla/5.0 (Linux; Android 9; AFTMM Build/PS7233) AppleWebKit/537.36 (KHTML, like Gecko) Silk/120.4 like Chrome/120.0.6099.230 Safari/537.36":                                             {Browser: "silk", OS: "android", Device: "tv"},
		"Mozilla/5.0 (PlayStation; PlayStation 5/6.00) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/15.4 Safari/605.1.15":                                                                       {Browser: "safari", OS: "playstation", Device: "console"},
		"Mozilla/5.0 (Windows NT 10.0; WOW64; Trident/7.0; Touch; rv:11.0) like Gecko":                                                                                                              {Browser: "ie", OS: "windows", Device: "desktop"},
		"Mozilla/4.0 (compatible; MSIE 7.0; Windows NT 6.1; Trident/4.0; Tablet PC 2.0)":                                                                                                            {Browser: "ie", OS: "windows", Device: "desktop"},
		"Mozilla/5.0 (Mobile; Windows Phone 8.1; Android 4.0; ARM; Trident/7.0; Touch; rv:11.0; IEMobile/11.0; NOKIA; Lumia 520) like iPhone OS 7_0_3 Mac OS X AppleWebKit/537 (KHTML, like Gecko)": {Browser: "ie mobile", OS: "windows phone", Device: "phone"},
		"Opera/9.80 (J2ME/MIDP; Opera Mini/7.1.32052/29.3709; U; en) Presto/2.8.119 Version/11.10":                                                                                                  {Browser: "opera mini", Device: "phone"},
		"Mozilla/5.0 (Linux; Android 12; CUBOT X50) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Mobile Safari/537.36":                                                                   {Browser: "chrome", OS: "android", Device: "phone"},
		"Lynx/2.8.9rel.1 libwww-FM/2.14 SSL-MM/1.4.1 OpenSSL/1.1.1d":                                                                                                                                {Browser: "lynx"},
		"NewsApp/3.1 CFNetwork/1496.0.7 Darwin/23.5.0":                                                                                                                                              {},
		"okhttp/4.12.0":           {},
		"-":                       robot,
		"curl/8.5.0":              robot,
		"Go-http-client/1.1":      robot,
		"facebookexternalhit/1.1": robot,
		"Baiduspider":             robot,
		"UniversalFeedParser/4.2": robot,
		"Zabbix":                  robot,
		"Mozilla/5.0 (compatible; GPTBot/1.2; +https://openai.com/gptbot)":                                  robot,
		"Mozilla/5.0 (compatible; Dataprovider.com)":                                                        robot,
		"Mozilla/5.0 (X11; Linux x86_64) HeadlessChrome/142.0.0.0 Safari/537.36":                            robot,
		"Mozilla/5.0 (X11; Linux x86_64; rv:99.0) Firefox/99.0 https://a.example/":                          robot,
		"Mozilla/4.0 (compatible; MSIE 6.0; Windows NT 5.0; Franciscans Australia; .NET CLR 1.1.4322)":      {Browser: "ie", OS: "windows", Device: "desktop"},
		"Mozilla/4.0 (compatible; MSIE 6.0; Windows NT 5.1; Embedded Web Browser from: http://bsalsa.com/)": {Browser: "ie", OS: "windows", Device: "desktop"},
		"Mozilla/4.0 (compatible; MSIE 5.01; Windows NT; proxyho; proxyinternet)":                           {Browser: "ie", OS: "windows", Device: "desktop"},
	} {
		if got := gateway.ReadAgent(text); got != want {
			t.Errorf("%s\n\tis %+v, want %+v", text, got, want)
		}
	}
}

func TestClientHints(t *testing.T) {
	const android = "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Mobile Safari/537.36"
	s := gateway.NewSessions()
	for _, tt := range []struct {
		name, agent, brands, mobile, platform string
		want                                  gateway.Agent
	}{
		{"Brave", chromeAgent, `"Chromium";v="142", "Brave";v="142", "Not_A Brand";v="99"`, "?0", `"Windows"`, gateway.Agent{Browser: "brave", OS: "windows", Device: "desktop"}},
		{"Chrome", chromeAgent, `"Chromium";v="142", "Google Chrome";v="142", "Not_A Brand";v="99"`, "?0", `"Windows"`, gateway.Agent{Browser: "chrome", OS: "windows", Device: "desktop"}},
		{"the hint knows better", chromeAgent, `"Chromium";v="142", "Google Chrome";v="142"`, "?0", `"Android"`, gateway.Agent{Browser: "chrome", OS: "android", Device: "tablet"}},
		{"a telephone", android, `"Google Chrome";v="142"`, "?1", `"Android"`, gateway.Agent{Browser: "chrome", OS: "android", Device: "phone"}},
		{"no user agent", "", `"Opera";v="125"`, "?0", `"macOS"`, gateway.Agent{Browser: "opera", OS: "macos", Device: "desktop"}},
		{"headless", chromeAgent, `"HeadlessChrome";v="142"`, "?0", `"Linux"`, gateway.Agent{Device: "bot", Bot: true}},
		{"a robot stays one", googleAgent, `"Google Chrome";v="142"`, "?1", `"Android"`, gateway.Agent{Device: "bot", Bot: true}},
		{"junk", chromeAgent, strings.Repeat("x", 4<<10), "yes", `"Plan 9"`, gateway.Agent{Browser: "chrome", OS: "windows", Device: "desktop"}},
	} {
		h := http.Header{}
		h.Set("User-Agent", tt.agent)
		h.Set("Sec-CH-UA", tt.brands)
		h.Set("Sec-CH-UA-Mobile", tt.mobile)
		h.Set("Sec-CH-UA-Platform", tt.platform)
		if got := s.OfRequest(h); got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

// What is remembered of user agents is bounded, and says what reading says.
func TestAgentsAreRemembered(t *testing.T) {
	s := gateway.NewSessions()
	if got := s.Read(""); got != (gateway.Agent{}) {
		t.Errorf("without a user agent: %+v", got)
	}
	for i := range 2 * gateway.AgentsMax {
		s.Read(fmt.Sprintf("%s App/%d", chromeAgent, i))
		if got := s.Read(firefoxAgent); got.Browser != "firefox" {
			t.Fatalf("%d: %+v", i, got)
		}
	}
	if n := s.Known(); n != gateway.AgentsMax {
		t.Errorf("%d are remembered, want %d", n, gateway.AgentsMax)
	}
	long := strings.Repeat("x", gateway.AgentBytesMax)
	if a, b := s.Read(long+" Firefox/1"), s.Read(long+" Chrome/1"); a != b || a != gateway.ReadAgent(long) {
		t.Errorf("%+v and %+v of what is over the bound", a, b)
	}
}

func TestReferrers(t *testing.T) {
	s := gateway.NewSessions()
	for ref, want := range map[string][3]string{ // engine, terms, social network
		"https://www.google.com/":                                     {"google", "", ""},
		"https://www.google.de/search?q=Gebrauchte+Autos&hl":          {"google", "gebrauchte autos", ""},
		"https://www.google.co.uk/search?hl=en&q=%20a%20%20B":         {"google", "a b", ""},
		"https://www.google.com/url?sa=t&q=&url=x":                    {"google", "", ""},
		"https://www.google.com/url?q=https://x.example/":             {"google", "", ""},
		"https://www.google.com/maps":                                 {},
		"https://docs.google.com/document/d/1":                        {},
		"https://www.bing.com/search?q=cars&form=QBLH":                {"bing", "cars", ""},
		"https://www.bing.com/images/search?q=cars":                   {"bing images", "cars", ""},
		"https://de.search.yahoo.com/search?p=autos":                  {"yahoo", "autos", ""},
		"https://duckduckgo.com/":                                     {"duckduckgo", "", ""},
		"https://search.brave.com/":                                   {"brave", "", ""},
		"https://yandex.ru/search/?text=%D0%B0%D0%B2%D1%82%D0%BE":     {"yandex", "авто", ""},
		"https://yandex.ru/search/?text=%E0%E2%F2%EE":                 {"yandex", "", ""}, // windows-1251
		"https://www.cnn.com/2026/11/28/world":                        {},                 // its search is an engine's
		"android-app://com.google.android.googlequicksearchbox/":      {"google", "", ""},
		"https://t.co/abc":                                            {"", "", "twitter"},
		"https://l.facebook.com/l.php?u=x":                            {"", "", "facebook"},
		"https://notfacebook.com/":                                    {},
		"https://news.example/?q=cars":                                {},
		"https://google.com.evil.example/search?q=cars":               {},
		"https://evil.example/?https://www.google.com/search?q=cars":  {},
		"//www.google.com/search?q=cars":                              {},
		"www.google.com/search?q=cars":                                {},
		"https://www.google.com/search?q=" + strings.Repeat("x", 300): {"google", "", ""},
		"": {},
	} {
		engine, terms := s.Search(ref)
		if got := [3]string{engine, terms, s.Network(ref)}; got != want {
			t.Errorf("%s: %q, want %q", ref, got, want)
		}
	}
	for ref, want := range map[string]string{
		"https://WWW.News.example:8443/a?b": "www.news.example", "https://me:pw@news.example/": "news.example", "http://[::1]:80/": "[::1]", "https://news.example": "news.example",
		"https://news.example?x": "news.example", "https://bücher.example/": "bücher.example", "https://a b/": "", "https://" + strings.Repeat("Ⱥ", 126) + "/": "", "mailto:jo": "", "/a/b": "", "https://": "", "https://" + strings.Repeat("a", 254): "",
	} {
		if got := gateway.RefHost(ref); got != want {
			t.Errorf("%s is of %q, want %q", ref, got, want)
		}
	}
}

func TestSections(t *testing.T) {
	for address, want := range map[string]string{
		"https://news.example/auto/7?x=1": "auto", "https://news.example/auto": "auto", "https://news.example/": "home", "https://news.example": "home", "https://news.example?x=/y": "home",
		"https://news.example//auto/": "auto", "/auto/x#y": "auto", "/": "home", "https://news.example/%C3%BCber/uns": "über", "https://news.example/a%00b/": "a%00b", "https://news.example/%zz/": "%zz",
		"app://news/auto/7": "auto", "auto/7": "", "": "", "news.example/auto": "", "//news.example/auto": "", "mailto:x": "", "https://news.example/" + strings.Repeat("x", 129) + "/": "",
	} {
		if got := gateway.SectionOf(address); got != want {
			t.Errorf("%s: %q, want %q", address, got, want)
		}
	}
}

// derived are the properties of the newest event that the rig took, as texts.
func (r *rig) derived() map[string]string {
	r.t.Helper()
	all := r.taken()
	if len(all) == 0 {
		r.t.Fatal("no event was taken")
	}
	m := map[string]string{}
	for _, p := range all[len(all)-1].Props {
		m[p.Key] = p.Value.String()
	}
	return m
}

// TestSessionDataEverywhere: the same visit by every way in is the same event.
func TestSessionDataEverywhere(t *testing.T) {
	const page, ref = "https://news.example/auto/7", "https://www.google.de/search?q=Blaue+Autos&tok=en"
	want := map[string]string{
		"browser": "safari", "os": "ios", "device": "phone", "section": "auto", "ref_host": "www.google.de", "search_engine": "google", "search_terms": "blaue autos",
	}
	r := newRig(t)
	event := func(more string) string {
		return `{"client":"acme","events":[{"event":"page","identities":["browser:b1"],"url":"` + page + `","ref":"` + ref + `"` + more + `}]}`
	}
	withAgent := event(`,"user_agent":"` + iphoneAgent + `"`)
	b, err := gproto.Marshal(&pb.EventsRequest{Events: []*pb.Event{{Event: "page", Identities: []string{"browser:b1"}, Url: page, Ref: ref, UserAgent: iphoneAgent}}})
	if err != nil {
		t.Fatal(err)
	}
	nc := natsRig(t, r)
	for name, send := range map[string]func(){
		"pixel": func() {
			r.visit("GET", "/v1/pixel.gif?client=acme&url="+url.QueryEscape(page)+"&ref="+url.QueryEscape(ref), "", "User-Agent", iphoneAgent)
		},
		"public": func() { r.visit("POST", "/v1/events", event(""), "User-Agent", iphoneAgent) },
		"public, by the header only": func() {
			r.visit("POST", "/v1/events", event(`,"user_agent":"`+firefoxAgent+`"`), "User-Agent", iphoneAgent)
		},
		"the referrer's query apart": func() {
			body := strings.Replace(event(`,"ref_query":"&q=Blaue+Autos"`), "search?q=Blaue+Autos&tok=en", "search", 1)
			r.visit("POST", "/v1/events", body, "User-Agent", iphoneAgent)
		},
		"service": func() { r.serve("POST", "/v1/events", withAgent, auth, key("acme-key"), "User-Agent", "curl/8") },
		"service, protobuf": func() {
			r.serve("POST", "/v1/events", string(b), auth, key("acme-key"), "Content-Type", "application/x-protobuf")
		},
		"NATS": func() { ask(t, nc, "kith.in.acme", withAgent, auth, key("acme-key")) },
		"NATS, protobuf": func() {
			ask(t, nc, "kith.in.acme", string(b), auth, key("acme-key"), "Content-Type", "application/x-protobuf")
		},
	} {
		before := len(r.taken())
		send()
		if len(r.taken()) != before+1 {
			t.Errorf("%s: not taken", name)
			continue
		}
		if d := cmp.Diff(want, r.derived()); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
		if e := r.taken()[before]; e.Ref != "https://www.google.de/search" || e.URL != page {
			t.Errorf("%s: url %s, ref %s", name, e.URL, e.Ref)
		}
	}
	// Nothing of the service's own program is noted, and no user agent kept.
	r.serve("POST", "/v1/events", event(""), auth, key("acme-key"), "User-Agent", "curl/8")
	if got := r.derived(); got["browser"] != "" || got["bot"] != "" || got["device"] != "" {
		t.Errorf("of a server: %v", got)
	}
	for _, e := range r.taken() {
		if text := fmt.Sprintf("%+v", e); strings.Contains(text, "Mozilla") || strings.Contains(text, "tok=en") {
			t.Errorf("kept: %s", text)
		}
	}
}

func TestDerivedPropertiesGiveWay(t *testing.T) {
	r := newRig(t)
	post := func(event string) map[string]string {
		t.Helper()
		if w := r.serve("POST", "/v1/events", `{"events":[`+event+`]}`, auth, key("acme-key")); !strings.Contains(w.Body.String(), `"accepted":1`) {
			t.Fatalf("%s: %s", event, w.Body)
		}
		return r.derived()
	}
	got := post(`{"event":"page","identities":["browser:b1"],"user_agent":"` + firefoxAgent + `","url":"https://a.example/auto/","props":{"section":"moto","os":"haiku","browser":7}}`)
	if d := cmp.Diff(map[string]string{"section": "moto", "os": "haiku", "browser": "7", "device": "desktop"}, got); d != "" {
		t.Error(d)
	}
	// An event keeps its bound of properties.
	var props []string
	for i := range proto.EventPropsMax - 1 {
		props = append(props, fmt.Sprintf(`"p%d":1`, i))
	}
	got = post(`{"event":"page","identities":["browser:b1"],"user_agent":"` + firefoxAgent + `","url":"https://a.example/auto/","props":{` + strings.Join(props, ",") + `}}`)
	if len(got) != proto.EventPropsMax || got["browser"] != "firefox" || got["section"] != "" {
		t.Errorf("%d properties: %v", len(got), got)
	}
	// What cannot stand in an event may stand in what is not kept of it.
	got = post(`{"event":"page","identities":["browser:b1"],"user_agent":"Mozilla/5.0 \u0000 Firefox/1.0","ref_query":"\u0001"}`)
	if got["browser"] != "firefox" {
		t.Errorf("%v", got)
	}
}

// Search terms with personal data in them are left out; the visit counts.
func TestSearchTermsHoldNothingPersonal(t *testing.T) {
	r := newRig(t)
	for terms, want := range map[string]string{
		"jo%40example.com": "", "%2B49+30+1234567": "", "4111+1111+1111+1111": "", "password%3Dhunter22": "", "cheap+cars": "cheap cars", "2+for+1": "2 for 1",
	} {
		for _, ref := range []string{`"ref":"https://www.bing.com/search?q=` + terms + `"`, `"ref":"https://www.bing.com/search","ref_query":"?q=` + terms + `"`} {
			w := r.visit("POST", "/v1/events", `{"client":"acme","events":[{"event":"page",`+ref+`}]}`)
			if !strings.Contains(w.Body.String(), `"accepted":1`) {
				t.Errorf("%s: %s", ref, w.Body)
				continue
			}
			if got := r.derived(); got["search_terms"] != want || got["search_engine"] != "bing" {
				t.Errorf("%s: %v", ref, got)
			}
			if e := r.taken()[len(r.taken())-1]; e.Ref != "https://www.bing.com/search" {
				t.Errorf("%s: kept as %s", ref, e.Ref)
			}
		}
	}
	// What cannot be read is not kept either.
	for _, terms := range []string{"%E4rzte", strings.Repeat("a", 300)} {
		w := r.visit("POST", "/v1/events", `{"client":"acme","events":[{"event":"page","ref":"https://www.bing.com/search?q=`+terms+`"}]}`)
		if e := r.taken()[len(r.taken())-1]; !strings.Contains(w.Body.String(), `"accepted":1`) || e.Ref != "https://www.bing.com/search" || r.derived()["search_terms"] != "" {
			t.Errorf("%s: %s, kept as %s with %v", terms, w.Body, e.Ref, r.derived())
		}
	}
	// A session in the first part of a path is no section, and costs no event.
	for path, want := range map[string]string{"/index.jsp;jsessionid=2D9447DA79A8C9C02D9447DA79A8C9C0": "", "/auto;v=2/7": "auto"} {
		w := r.visit("POST", "/v1/events", `{"client":"acme","events":[{"event":"page","url":"https://a.example`+path+`"}]}`)
		if got := r.derived()["section"]; !strings.Contains(w.Body.String(), `"accepted":1`) || strings.Contains(got, "session") || want != "" && got != want {
			t.Errorf("%s: %s, section %q", path, w.Body, got)
		}
	}
	// Elsewhere the referrer's own rules hold.
	if w := r.visit("POST", "/v1/events", `{"client":"acme","events":[{"event":"page","ref":"https://a.example/search?q=jo%40example.com"}]}`); !strings.Contains(w.Body.String(), `"code":"pii"`) {
		t.Errorf("a referrer with an address: %s", w.Body)
	}
}

func TestRobots(t *testing.T) {
	r := newRig(t, func(c *gateway.Config) { c.BotsDropped = []proto.ClientName{"acme"} })
	event := func(client, more string) string {
		return `{"client":"` + client + `","events":[{"event":"page","identities":["browser:b1"]` + more + `}]}`
	}
	const marked = `,"user_agent":"Googlebot/2.1"`
	for _, tt := range []struct {
		name  string
		send  func() string
		taken bool
		bot   string
	}{
		{"public, kept", func() string {
			return r.visit("POST", "/v1/events", event("demo", ""), "User-Agent", googleAgent).Body.String()
		}, true, "true"},
		{"public, dropped", func() string {
			w := r.visit("POST", "/v1/events", event("acme", ""), "User-Agent", googleAgent)
			if len(w.Result().Cookies()) != 0 {
				t.Errorf("a robot got cookies: %v", w.Header())
			}
			return w.Body.String()
		}, false, ""},
		{"pixel, dropped", func() string {
			return r.visit("GET", "/v1/pixel.gif?client=acme", "", "User-Agent", googleAgent).Header().Get("X-Kith-Error")
		}, false, ""},
		{"a person, where they are dropped", func() string {
			return r.visit("POST", "/v1/events", event("acme", ""), "User-Agent", chromeAgent).Body.String()
		}, true, ""},
		{"nobody says", func() string { return r.visit("POST", "/v1/events", event("acme", "")).Body.String() }, true, ""},
		{"service, dropped", func() string {
			return r.serve("POST", "/v1/events", event("acme", marked), auth, key("acme-key")).Body.String()
		}, false, ""},
		{"service, kept by the query", func() string {
			return r.serve("POST", "/v1/events?bots=keep", event("acme", marked), auth, key("acme-key")).Body.String()
		}, true, "true"},
		{"service, dropped by the query", func() string {
			return r.serve("POST", "/v1/events?bots=drop&client=demo", event("demo", marked), auth, key("admin-key")).Body.String()
		}, false, ""},
		{"the event says so", func() string {
			return r.serve("POST", "/v1/events", event("acme", `,"props":{"bot":true}`), auth, key("acme-key")).Body.String()
		}, false, ""},
		{"the event says no", func() string {
			return r.serve("POST", "/v1/events", event("acme", marked+`,"props":{"bot":false}`), auth, key("acme-key")).Body.String()
		}, true, "false"},
	} {
		before := len(r.taken())
		body := tt.send()
		if taken := len(r.taken()) == before+1; taken != tt.taken || !taken && !strings.Contains(body, "robot") {
			t.Errorf("%s: taken %v: %s", tt.name, taken, body)
			continue
		}
		if tt.taken && r.derived()["bot"] != tt.bot {
			t.Errorf("%s: %v", tt.name, r.derived())
		}
	}
	if w := r.serve("POST", "/v1/events?bots=mark", event("acme", ""), auth, key("acme-key")); w.Code != 400 || code(w) != "invalid" {
		t.Errorf("bots=mark: %d %s", w.Code, w.Body)
	}
	// A signal comes before everything.
	before := len(r.taken())
	for _, header := range []string{"Sec-GPC", "DNT"} {
		w := r.visit("POST", "/v1/events", event("demo", `,"url":"https://a.example/b"`), "User-Agent", chromeAgent, header, "1")
		if !strings.Contains(w.Body.String(), "opted_out") {
			t.Errorf("%s: %s", header, w.Body)
		}
	}
	if len(r.taken()) != before {
		t.Error("something was kept against a signal")
	}
}

// FuzzSessionData: whatever agent, url and referrer are, what is derived is text
// within its bounds, the same each time, and nothing personal.
func FuzzSessionData(f *testing.F) {
	f.Add(chromeAgent, "https://news.example/auto/7", "https://www.google.de/search?q=blaue+autos")
	f.Add(googleAgent, "/%C3%BCber", "https://m.facebook.com/")
	f.Add("-", "https://[::1]:80/", "https://de.search.yahoo.com?p=%e0&p=jo%40example.com")
	f.Add("cubot bot", "x://?#", "android-app://com.google.android.googlequicksearchbox/")
	s, other := gateway.NewSessions(), gateway.NewSessions()
	f.Fuzz(func(t *testing.T, agent, address, ref string) {
		if !utf8.ValidString(address) || !utf8.ValidString(ref) || strings.ContainsFunc(address+ref, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return // refused before
		}
		e := proto.Event{EventBody: proto.EventBody{URL: address, Ref: ref}}
		s.Derive(&e, agent)
		again := proto.Event{EventBody: proto.EventBody{URL: address, Ref: ref}}
		other.Derive(&again, agent)
		if d := cmp.Diff(again, e); d != "" {
			t.Fatal(d)
		}
		if !strings.HasPrefix(ref, e.Ref) {
			t.Fatalf("%q became %q", ref, e.Ref)
		}
		for _, p := range e.Props {
			text := p.Value.String()
			if text == "" || len(text) > 256 || !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) {
				t.Fatalf("%s is %q", p.Key, text)
			}
			if p.Key == "search_terms" && gateway.FindPersonal(text) != "none" {
				t.Fatalf("terms %q of %q", text, ref)
			}
		}
	})
}

// BenchmarkSessionData is what an event costs: the user agent from memory and
// without, and the whole.
func BenchmarkSessionData(b *testing.B) {
	agents := []string{chromeAgent, firefoxAgent, iphoneAgent, googleAgent}
	b.Run("agent, known", func(b *testing.B) {
		s := gateway.NewSessions()
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			s.Read(agents[i%len(agents)])
		}
	})
	b.Run("agent, new", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			gateway.ReadAgent(agents[i%len(agents)])
		}
	})
	b.Run("event", func(b *testing.B) {
		s := gateway.NewSessions()
		props := make([]proto.Prop, 0, proto.EventPropsMax)
		b.ReportAllocs()
		for b.Loop() {
			e := proto.Event{EventBody: proto.EventBody{URL: "https://www.news.example/auto/2026/11/28/x.html", Ref: "https://www.google.com/", Props: props}}
			s.Derive(&e, chromeAgent)
		}
	})
}
