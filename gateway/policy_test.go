package gateway_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kith/gateway"
	"kith/proto"
)

// lawful is a gateway whose proxy says where visitors are.
func lawful(t *testing.T) *rig {
	return newRig(t, func(c *gateway.Config) {
		c.CountryHeader = "cf-ipcountry"
		c.Consent = gateway.ConsentPolicy{OptIn: []string{"DE", "FR", "GB"}}
		c.ConsentOf = map[proto.ClientName]gateway.ConsentPolicy{
			"acme":  {Purposes: []int{1}, OptIn: []string{"FR"}, OptInUnknown: true},
			"other": {OptInUnknown: true},
		}
	})
}

// TestRegimes: whether consent comes first, by client and country.
func TestRegimes(t *testing.T) {
	r := lawful(t)
	const first, later = "opt_in", "opt_out"
	for _, tt := range []struct {
		client    string
		countries []string
		want      string
	}{
		{"demo", nil, later}, {"demo", []string{"DE"}, first}, {"demo", []string{"de"}, first}, {"demo", []string{" FR "}, first}, {"demo", []string{"US"}, later},
		{"demo", []string{"US-CA"}, later}, {"demo", []string{"DE-BY"}, first}, {"demo", []string{"US", "DE"}, first}, {"demo", []string{"US,DE"}, first},
		{"demo", []string{"XX"}, later}, {"demo", []string{"Germany"}, later}, {"demo", []string{""}, later}, {"demo", []string{"D\x80"}, later},
		{"acme", nil, first}, {"acme", []string{"DE"}, later}, {"acme", []string{"FR"}, first}, {"acme", []string{"XX"}, first}, {"acme", []string{"T1"}, first},
		{"acme", []string{"DE, XX"}, first}, {"acme", []string{"DE", ""}, first}, {"other", []string{"DE"}, later}, {"other", []string{"ZZ"}, first},
		{"acme", []string{"EU"}, first}, {"other", []string{"AP"}, first}, {"demo", []string{"EU"}, later}, {"demo", []string{"UK"}, first},
	} {
		var headers []string
		if len(tt.countries) > 0 {
			headers = []string{"CF-IPCountry", strings.Join(tt.countries, ",")}
		}
		w := r.visit("GET", "/v1/optout/status?client="+tt.client, "", headers...)
		var got struct {
			Regime, By string
			OptedOut   bool `json:"opted_out"`
		}
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
			t.Fatal(err, w.Body)
		}
		if got.Regime != tt.want || got.OptedOut != (tt.want == first) || (got.By == "gdpr") != (tt.want == first) {
			t.Errorf("%s %q: %s", tt.client, tt.countries, w.Body)
		}
	}
}

// TestConsentFirst: where consent comes first nothing is stored or told without,
// and what is needed is the client's to say.
func TestConsentFirst(t *testing.T) {
	onlyStore := tcString(2, []int{1}, "")
	for _, tt := range []struct {
		client, country, query string
		ok                     bool
	}{
		{"demo", "DE", "", false}, {"demo", "US", "", true}, {"demo", "DE", "gdpr_consent=" + consented, true}, {"demo", "DE", "gdpr_consent=" + refused, false},
		{"demo", "DE", "gdpr=0", false}, {"demo", "DE", "gdpr=0&gdpr_consent=" + refused, false}, {"demo", "US", "gdpr=1", false}, {"demo", "US", "gdpr=0&gdpr_consent=" + refused, true},
		{"demo", "DE", "gdpr_consent=" + onlyStore, false}, {"acme", "FR", "gdpr_consent=" + onlyStore, true}, {"acme", "FR", "", false},
		{"demo", "DE", "gdpr_consent=" + consented + "&gdpr_consent=" + refused, false}, {"demo", "DE", "gdpr_consent=" + consented + "&gdpr_consent=" + consented + "&gdpr_consent=" + consented, false},
		{"demo", "DE", "gdpr_consent=%zz", false}, {"demo", "US", "us_privacy=1YYN", false}, {"demo", "US", "us_privacy=1YNN", true}, {"demo", "US", "us_privacy=1---&us_privacy=1-Y-", false},
		{"demo", "US", "gpp=x", false}, {"demo", "US", "coppa=1", false}, {"demo", "US", "coppa=0", true}, {"demo", "US", "lmt=1", false}, {"demo", "US", "gpc=1", false}, {"demo", "US", "dnt=1", false},
		{"demo", "US", "%67pc=1", false}, {"demo", "US", "gpc=0", true},
	} {
		r := lawful(t)
		client := r.clients[proto.ClientName(tt.client)].ID
		r.members[member{client, "browser:abc123"}] = []proto.SegmentID{"auto"}
		headers := []string{"CF-IPCountry", tt.country, "Cookie", mineToo, "Sec-Fetch-Site", "same-origin"}
		and := ""
		if tt.query != "" {
			and = "&" + tt.query
		}
		r.visit("POST", "/v1/events?"+tt.query, `{"client":"`+tt.client+`","events":[{"event":"page"}]}`, headers...)
		r.visit("GET", "/v1/pixel.gif?client="+tt.client+and, "", headers...)
		if n := len(r.taken()); n != 2 && tt.ok || n != 0 && !tt.ok {
			t.Errorf("%+v: %d events were stored", tt, n)
		}
		w := r.visit("GET", "/v1/me/segments?client="+tt.client+and, "", headers...)
		if strings.Contains(w.Body.String(), `"auto"`) != tt.ok || (w.Header().Get("X-Kith-Withheld") == "") != tt.ok {
			t.Errorf("%+v: %s %v", tt, w.Body, w.Header())
		}
		if w := r.visit("GET", "/v1/me?client="+tt.client+and, "", headers...); !strings.Contains(w.Body.String(), `"auto"`) {
			t.Errorf("%+v: what is held is hidden: %s", tt, w.Body)
		}
		// A server that passes on what it was told is answered likewise.
		w = r.serve("GET", "/v1/identities/browser:abc123/segments?client="+tt.client+and, "", "CF-IPCountry", tt.country, auth, key("admin-key"))
		if strings.Contains(w.Body.String(), `"auto"`) != tt.ok {
			t.Errorf("%+v: look-up: %s", tt, w.Body)
		}
	}
	// What somebody says of themselves is consent to that.
	r := lawful(t)
	if w := r.visit("POST", "/v1/choices", `{"client":"demo","gender":"male"}`, "Content-Type", "application/json", "CF-IPCountry", "DE"); w.Code != 200 || len(r.traits) != 1 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := r.visit("POST", "/v1/choices?gdpr=1&gdpr_consent="+refused, `{"client":"demo","gender":"male"}`, "Content-Type", "application/json"); w.Code != 403 || len(r.traits) != 1 {
		t.Errorf("with a refusal: %d %s", w.Code, w.Body)
	}
	// Without the header the service plane asks for nothing: the client answers for itself.
	r = lawful(t)
	r.members[member{2, "browser:abc123"}] = []proto.SegmentID{"auto"}
	if w := r.serve("GET", "/v1/identities/browser:abc123/segments", "", auth, key("acme-key")); !strings.Contains(w.Body.String(), `"auto"`) {
		t.Errorf("a look-up: %s", w.Body)
	}
}

// TestPassedOn: what a server passes on of a browser is heeded on every route of
// the service plane that is about a person.
func TestPassedOn(t *testing.T) {
	for _, s := range [][]string{{"Sec-GPC", "1"}, {"DNT", "1"}, {"Sec-GPC", "0, 1"}} {
		r := newRig(t)
		r.members[member{2, "browser:abc123"}] = []proto.SegmentID{"auto"}
		for _, tt := range []struct {
			method, target, body string
			status               int
			want                 string
		}{
			{"GET", "/v1/identities/browser:abc123/segments", "", 200, `{"identity":"browser:abc123","known":false,"opted_out":true,"segments":[]}`},
			{"POST", "/v1/lookup", `{"identities":["browser:abc123"]}`, 200, `{"results":[{"identity":"browser:abc123","known":false,"opted_out":true,"segments":[]}]}`},
			{"POST", "/v1/events", `{"events":[{"event":"page","identities":["browser:abc123"]}]}`, 200, `"code":"opted_out"`},
			{"PATCH", "/v1/identities/browser:abc123/traits", `{"age":34}`, 403, `"code":"opted_out"`},
			{"POST", "/v1/traits", `{"rows":[{"identity":"browser:abc123","traits":{"age":34}}]}`, 403, `"code":"opted_out"`},
			{"POST", "/v1/links", `{"a":"browser:abc123","b":"account:a1"}`, 403, `"code":"opted_out"`},
			{"GET", "/v1/users/browser:abc123", "", 403, `"code":"opted_out"`},
			{"GET", "/v1/identities/browser:abc123/explain?segment=all", "", 403, `"code":"opted_out"`},
			{"GET", "/v1/identities/browser:abc123", "", 200, `"segments":["auto"]`},
			{"POST", "/v1/optouts", `{"identity":"browser:abc123"}`, 200, `"final":true`},
		} {
			w := r.serve(tt.method, tt.target, tt.body, append([]string{auth, key("acme-key")}, s...)...)
			if w.Code != tt.status || !strings.Contains(w.Body.String(), tt.want) {
				t.Errorf("%v %s %s: %d %s", s, tt.method, tt.target, w.Code, w.Body)
			}
		}
		if len(r.taken()) != 0 || len(r.traits) != 0 || len(r.graph.edges) != 0 {
			t.Errorf("%v: something was stored", s)
		}
	}
}

// TestLimitedDevices: a device that limits ad tracking is not stored on the service
// plane either.
func TestLimitedDevices(t *testing.T) {
	r := newRig(t)
	w := r.serve("POST", "/v1/events", `{"events":[
		{"event":"a","identities":["aaid:AB-1"],"lmt":true},
		{"event":"b","identities":["idfa:AB-1","account:a1"],"lmt":1},
		{"event":"c","identities":["aaid:AB-2"],"lmt":false}]}`, auth, key("acme-key"))
	if !strings.Contains(w.Body.String(), `"refused":[{"index":0,"code":"opted_out"`) {
		t.Error(w.Body)
	}
	got := map[string][]proto.Identity{}
	for _, e := range r.taken() {
		got[e.Name] = e.Identities
	}
	if d := cmp.Diff(map[string][]proto.Identity{"b": {"account:a1"}, "c": {"aaid:AB-2"}}, got); d != "" {
		t.Error(d)
	}
}

// TestStanding: the status says what each signal did.
func TestStanding(t *testing.T) {
	us := "us_privacy=1YYN"
	for _, tt := range []struct {
		name, query, cookie string
		headers             []string
		by                  string
		want                map[string]string // those that are not absent
	}{
		{"nothing", "", "", nil, "", map[string]string{}},
		{"all headers", "", "kith_optout=1", []string{"Sec-GPC", "1", "DNT", "1"}, "cookie", map[string]string{"cookie": "refuses", "gpc": "refuses", "dnt": "refuses"}},
		{"GPC off", "", "", []string{"Sec-GPC", "0", "DNT", "0"}, "", map[string]string{}},
		{"consent", "gdpr=1&gdpr_consent=" + consented, "", nil, "", map[string]string{"gdpr": "allows"}},
		{"a refusal", "gdpr=1&gdpr_consent=" + refused, "", nil, "gdpr", map[string]string{"gdpr": "refuses"}},
		{"a refusal, not needed", "gdpr=0&gdpr_consent=" + refused, "", nil, "", map[string]string{"gdpr": "idle"}},
		{"no consent", "gdpr=1", "", nil, "gdpr", map[string]string{"gdpr": "missing"}},
		{"US", us, "", nil, "us_privacy", map[string]string{"us_privacy": "refuses"}},
		{"US, no", "us_privacy=1YNN", "", nil, "", map[string]string{"us_privacy": "allows"}},
		{"GPP", "gpp=DBAA&gpp_sid=-1", "", nil, "", map[string]string{"gpp": "allows"}},
		{"GPP, broken", "gpp=!", "", nil, "gpp", map[string]string{"gpp": "refuses"}},
		{"lmt and coppa", "lmt=1&coppa=1", "", nil, "lmt", map[string]string{"lmt": "refuses", "coppa": "refuses"}},
		{"tombstone", "", "kith_id=gone1", nil, "opted_out", map[string]string{"opted_out": "refuses"}},
		{"tombstone and US", us, "kith_id=gone1", nil, "us_privacy", map[string]string{"opted_out": "refuses", "us_privacy": "refuses"}},
	} {
		r := newRig(t)
		r.graph.out["browser:gone1"] = &proto.OptOutState{OptedOut: true, Final: true}
		w := r.visit("GET", "/v1/optout/status?client=acme&"+tt.query, "", append([]string{"Cookie", tt.cookie}, tt.headers...)...)
		var got struct {
			OptedOut   bool `json:"opted_out"`
			By, Client string
			Signals    map[string]string
		}
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
			t.Fatal(err, w.Body)
		}
		if got.OptedOut != (tt.by != "") || got.By != tt.by || got.Client != "acme" || len(got.Signals) != 9 {
			t.Errorf("%s: %s", tt.name, w.Body)
		}
		for signal, effect := range got.Signals {
			if effect == "absent" {
				delete(got.Signals, signal)
			}
		}
		if d := cmp.Diff(tt.want, got.Signals); d != "" {
			t.Errorf("%s: %s", tt.name, d)
		}
		// Nothing is stored exactly if the status says so.
		r.visit("POST", "/v1/events?"+tt.query, `{"client":"acme","events":[{"event":"page"}]}`, append([]string{"Cookie", tt.cookie}, tt.headers...)...)
		if (len(r.taken()) == 0) != got.OptedOut {
			t.Errorf("%s: %d events were stored", tt.name, len(r.taken()))
		}
	}
	r := newRig(t)
	if w := r.visit("GET", "/v1/optout/status?client=nobody", ""); w.Code != 400 || code(w) != "client" {
		t.Errorf("an unknown client: %d %s", w.Code, w.Body)
	}
	r.graph.cutErr = proto.Errorf(proto.CodeUnavailable, "not now")
	if w := r.visit("GET", "/v1/optout/status", "", "Cookie", "kith_id=gone1"); w.Code != 200 || !strings.Contains(w.Body.String(), `"opted_out":"unknown"`) {
		t.Errorf("a tombstone that cannot be looked up: %d %s", w.Code, w.Body)
	}
}

func TestConsentConfig(t *testing.T) {
	for name, c := range map[string]gateway.Config{
		"purpose 0":            {Consent: gateway.ConsentPolicy{Purposes: []int{0, 1}}},
		"purpose 25":           {Consent: gateway.ConsentPolicy{Purposes: []int{1, 25}}},
		"without purpose 1":    {Consent: gateway.ConsentPolicy{Purposes: []int{3, 4}}},
		"a country in words":   {Consent: gateway.ConsentPolicy{OptIn: []string{"Germany"}}},
		"a country that is no": {Consent: gateway.ConsentPolicy{OptIn: []string{"XX"}}},
		"a union":              {Consent: gateway.ConsentPolicy{OptIn: []string{"EU"}}},
		"another's code":       {Consent: gateway.ConsentPolicy{OptIn: []string{"UK"}}},
		"an empty country":     {Consent: gateway.ConsentPolicy{OptIn: []string{""}}},
		"a lower-case country": {ConsentOf: map[proto.ClientName]gateway.ConsentPolicy{"acme": {OptIn: []string{"de"}}}},
		"no header's name":     {CountryHeader: "CF IPCountry:"},
	} {
		if err := c.Validate(); proto.CodeOf(err) != proto.CodeInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}
