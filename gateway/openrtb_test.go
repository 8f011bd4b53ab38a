package gateway_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"kith/gateway"
	"kith/proto"
)

var pseudonymKey = []byte("fedcba9876543210")

// pseudonym is what docs/api.md says that others are told.
func pseudonym(client uint32, id string) string {
	h := hmac.New(sha256.New, pseudonymKey)
	h.Write([]byte{byte(client >> 24), byte(client >> 16), byte(client >> 8), byte(client)})
	h.Write([]byte(id))
	return "k1~" + base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// exchange is a rig whose clients fill bid requests and have a partner.
func exchange(t testing.TB, edit ...func(*gateway.Config)) *rig {
	t.Helper()
	r := newRig(t, append([]func(*gateway.Config){func(c *gateway.Config) {
		c.PseudonymKey, c.EIDSource = pseudonymKey, "kith.example"
		c.OpenRTB = map[proto.ClientName]gateway.OpenRTB{"acme": {Segtax: 7777, UserID: "partner.adx", BuyerUID: "browser"}}
		c.Blocked = []proto.Identity{"browser:kiosk1", "partner.adx:kiosk1"}
		c.Partners = map[proto.ClientName][]gateway.Partner{
			"acme": {
				{Name: "adx", Redirects: []string{"https://sync.adx.example/match", "https://other.adx.example"}},
				{Name: "sure", Redirects: []string{"https://sure.example/"}, Secret: secret},
				{Name: "quiet"},
			},
		}
	}}, edit...)...)
	var events strings.Builder
	for i, e := range []struct{ id, section string }{
		{"browser:seen1", "auto"},
		{"browser:mine1", "boats"},
		{"idfa:EA7583CD-A667-48BC-B806-42ECB2B48606", "moto"},
		{"aaid:cdda802e-fb9c-47ad-9866-0794d394c912", "bikes"},
		{"account:a1", "news"},
		{"partner.adx:77", "sport"},
		{"browser:out1", "auto"},
		{"browser:kiosk1", "auto"},
	} {
		if i > 0 {
			events.WriteByte(',')
		}
		fmt.Fprintf(&events, `{"event":"page","identities":[%q],"props":{"section":%q}}`, e.id, e.section)
	}
	if w := r.serve("POST", "/v1/events", `{"events":[`+events.String()+`]}`, auth, key("acme-key")); w.Code != 200 || strings.Contains(w.Body.String(), "code") && strings.Contains(w.Body.String(), "pii") {
		t.Fatal(w.Code, w.Body)
	}
	for _, id := range []string{"browser:out1", "partner.adx:out1", "browser:gone1"} {
		if w := r.serve("POST", "/v1/optouts", `{"identity":"`+id+`"}`, auth, key("acme-key")); w.Code != 200 {
			t.Fatal(w.Code, w.Body)
		}
	}
	return r
}

// ourData and ourEID are our entries of a browser's of acme.
func ourData(segments ...string) string {
	var list []string
	for _, s := range segments {
		list = append(list, `{"id":"`+s+`"}`)
	}
	return `{"id":"kith","name":"kith","segment":[` + strings.Join(list, ",") + `],"ext":{"segtax":7777}}`
}

func ourEID(id string) string {
	atype := 1
	if strings.HasPrefix(id, "account:") {
		atype = 3
	}
	return fmt.Sprintf(`{"source":"kith.example","uids":[{"id":"%s","atype":%d}]}`, pseudonym(2, id), atype)
}

// ours are both as members of a user.
func ours(id string, segments ...string) string {
	return `"data":[` + ourData(segments...) + `],"eids":[` + ourEID(id) + `]`
}

func TestOpenRTB(t *testing.T) {
	r := exchange(t)
	const idfa, aaid = "EA7583CD-A667-48BC-B806-42ECB2B48606", "cdda802e-fb9c-47ad-9866-0794d394c912"
	seen := ours("browser:seen1", "all", "auto")
	raw := `{"source":"kith.example","uids":[{"id":"seen1"}]}` // as a publisher's page sends it
	for _, tt := range []struct {
		name, in string
		want     string // "": as it came
		withheld string
	}{
		{"by user.buyeruid", `{"id":"1","user":{"buyeruid":"seen1"}}`, `{"id":"1","user":{"buyeruid":"seen1",` + seen + `}}`, ""},
		{"by user.id", `{"user":{"id":"77"}}`, `{"user":{"id":"77",` + ours("partner.adx:77", "all", "sport") + `}}`, ""},
		{"by the device, Apple's", `{"device":{"ifa":"` + idfa + `","os":"iOS"}}`, `{"device":{"ifa":"` + idfa + `","os":"iOS"},"user":{` + ours("idfa:"+idfa, "all", "moto") + `}}`, ""},
		{"by the device, Android's", `{"device":{"os":"Android","ifa":"` + aaid + `"}}`, `{"device":{"os":"Android","ifa":"` + aaid + `"},"user":{` + ours("aaid:"+aaid, "all", "bikes") + `}}`, ""},
		{"by a device of we know not whom", `{"device":{"ifa":"` + idfa + `"}}`, `{"device":{"ifa":"` + idfa + `"},"user":{` + ours("idfa:"+idfa, "all", "moto") + `}}`, ""},
		{"by the device, Apple's in small letters", `{"device":{"ifa":"` + strings.ToLower(idfa) + `","os":"iOS"}}`, `{"device":{"ifa":"` + strings.ToLower(idfa) + `","os":"iOS"},"user":{` + ours("idfa:"+idfa, "all", "moto") + `}}`, ""},
		{"by the device, Android's in capitals", `{"device":{"os":"Android","ifa":"` + strings.ToUpper(aaid) + `"}}`, `{"device":{"os":"Android","ifa":"` + strings.ToUpper(aaid) + `"},"user":{` + ours("aaid:"+aaid, "all", "bikes") + `}}`, ""},
		{"by the device, another's", `{"device":{"ifa":"` + idfa + `","os":"android"}}`, "", "unknown"},
		{"by the device, zeros", `{"device":{"ifa":"00000000-0000-0000-0000-000000000000","os":"iOS"}}`, "", "no_identity"},
		{"by an eid of ours", `{"user":{"eids":[` + raw + `]}}`, `{"user":{"eids":[` + ourEID("browser:seen1") + `],"data":[` + ourData("all", "auto") + `]}}`, ""},
		{"by an eid of ours with its kind", `{"user":{"eids":[{"uids":[{"atype":3,"id":"account:a1"}],"source":"KITH.example"}]}}`, `{"user":{"eids":[` + ourEID("account:a1") + `],"data":[` + ourData("all", "news") + `]}}`, ""},
		{"by an eid of another", `{"user":{"eids":[{"source":"other.example","uids":[{"id":"seen1"}]}]}}`, "", "no_identity"},
		{"a pseudonym names nobody", `{"user":{"eids":[` + ourEID("browser:seen1") + `]}}`, `{"user":{"eids":[]}}`, "no_identity"},
		{
			"the eid before the buyer before the user before the device", `{"device":{"ifa":"` + idfa + `"},"user":{"id":"77","buyeruid":"mine1","eids":[` + raw + `]}}`,
			`{"device":{"ifa":"` + idfa + `"},"user":{"id":"77","buyeruid":"mine1","eids":[` + ourEID("browser:seen1") + `],"data":[` + ourData("all", "auto") + `]}}`, "",
		},
		{"the first that is known", `{"user":{"buyeruid":"new1","id":"77"}}`, `{"user":{"buyeruid":"new1","id":"77",` + ours("partner.adx:77", "all", "sport") + `}}`, ""},
		{"one of them opted out", `{"user":{"buyeruid":"seen1","id":"out1"}}`, "", "opted_out"},
		{"opted out", `{"user":{"buyeruid":"out1"}}`, "", "opted_out"},
		{"opted out, never seen", `{"user":{"buyeruid":"gone1"}}`, "", "opted_out"},
		{"opted out, ours of before goes", `{"user":{"buyeruid":"out1","data":[{"id":"a"},` + ourData("auto") + `],"eids":[` + ourEID("browser:out1") + `]}}`, `{"user":{"buyeruid":"out1","data":[{"id":"a"}],"eids":[]}}`, "opted_out"},
		{"unknown", `{"user":{"buyeruid":"new1"}}`, "", "unknown"},
		{"nobody", `{}`, "", "no_identity"},
		{"a mail address", `{"user":{"buyeruid":"jane@example.com"}}`, "", "no_identity"},
		{"many people's", `{"user":{"buyeruid":"kiosk1"}}`, "", "no_identity"},
		{"no text", `{"user":{"buyeruid":77,"id":null}}`, "", "no_identity"},
		{"half a letter", `{"user":{"buyeruid":"\ud800x1"}}`, "", "no_identity"},
		{"no identity", `{"user":{"buyeruid":"a b","id":"x\u0000"}}`, "", "no_identity"},

		{"no user", `{"device":{"ifa":"` + idfa + `"}  }`, `{"device":{"ifa":"` + idfa + `"}  ,"user":{` + ours("idfa:"+idfa, "all", "moto") + `}}`, ""},
		{"user null", `{"user":null,"device":{"ifa":"` + idfa + `"}}`, `{"user":{` + ours("idfa:"+idfa, "all", "moto") + `},"device":{"ifa":"` + idfa + `"}}`, ""},
		{"user empty", `{"user":{},"device":{"ifa":"` + idfa + `"}}`, `{"user":{` + ours("idfa:"+idfa, "all", "moto") + `},"device":{"ifa":"` + idfa + `"}}`, ""},
		{"user null, nobody", `{"user":null}`, "", "no_identity"},
		{"data and eids null", `{"user":{"data":null,"buyeruid":"seen1","eids":null}}`, `{"user":{"data":[` + ourData("all", "auto") + `],"buyeruid":"seen1","eids":[` + ourEID("browser:seen1") + `]}}`, ""},
		{"data and eids null, nobody", `{"user":{"data":null,"eids":null}}`, "", "no_identity"},
		{"data and eids empty", `{"user":{"data":[ ],"buyeruid":"seen1","eids":[]}}`, `{"user":{"data":[` + ourData("all", "auto") + ` ],"buyeruid":"seen1","eids":[` + ourEID("browser:seen1") + `]}}`, ""},
		{
			"behind others", `{"user":{"data":[{"id":"x","segment":[]} ],"buyeruid":"seen1","eids":[{"source":"a.example"},{}]}}`,
			`{"user":{"data":[{"id":"x","segment":[]},` + ourData("all", "auto") + ` ],"buyeruid":"seen1","eids":[{"source":"a.example"},{},` + ourEID("browser:seen1") + `]}}`, "",
		},
		{
			"in place of ours", `{"user":{"buyeruid":"seen1","data":[{"id":"kith"} , {"id":"x"}, {"name":"kith","\u0069d":"\u006bith","segment":[{"id":"old"}]},{"id":"kith"},{"id":"y"}, {"id":"kith"}]}}`,
			`{"user":{"buyeruid":"seen1","data":[{"id":"x"},{"id":"y"},` + ourData("all", "auto") + `],"eids":[` + ourEID("browser:seen1") + `]}}`, "",
		},
		{"in place of ours alone", `{"user":{"buyeruid":"seen1","data":[ {"id":"kith"},{"id":"kith"} ],"eids":[]}}`, `{"user":{"buyeruid":"seen1","data":[ ` + ourData("all", "auto") + ` ],"eids":[` + ourEID("browser:seen1") + `]}}`, ""},
		{
			"another's of our name", `{"user":{"data":[{"id":"other","name":"kith"},{"id":5},7,"kith",[{"id":"kith"}],{"ext":{"id":"kith"}}],"buyeruid":"seen1","eids":[]}}`,
			`{"user":{"data":[{"id":"other","name":"kith"},{"id":5},7,"kith",[{"id":"kith"}],{"ext":{"id":"kith"}},` + ourData("all", "auto") + `],"buyeruid":"seen1","eids":[` + ourEID("browser:seen1") + `]}}`, "",
		},
		{
			"all else as it is", " {\"imp\":[{\"bidfloor\":1.50,\"n\":1E+2,\"big\":123456789012345678901234567890,\"neg\":-0.0}],\n\t\"user\" : { \"buyeruid\" : \"se\\u0065n1\", \"\\u00fc\":\"\\/\\ud83d\\ude00\" } , \"ext\":{\"b\":1,\"a\":[true,null]},\"user2\":{\"data\":1} } \n",
			" {\"imp\":[{\"bidfloor\":1.50,\"n\":1E+2,\"big\":123456789012345678901234567890,\"neg\":-0.0}],\n\t\"user\" : { \"buyeruid\" : \"se\\u0065n1\", \"\\u00fc\":\"\\/\\ud83d\\ude00\" ," + seen + "} , \"ext\":{\"b\":1,\"a\":[true,null]},\"user2\":{\"data\":1} } \n", "",
		},
		{"user of imp.ext is none", `{"imp":[{"user":{"buyeruid":"seen1","data":1}}],"user":{"ext":{"buyeruid":"seen1"}}}`, "", "no_identity"},
		{"eids in ext", `{"user":{"ext":{"eids":[{"source":"x"},` + raw + `],"a":1}}}`, `{"user":{"ext":{"eids":[{"source":"x"}],"a":1},` + seen + `}}`, ""},
		{"eids in ext, null", `{"user":{"ext":{"eids":null},"buyeruid":"seen1"}}`, `{"user":{"ext":{"eids":null},"buyeruid":"seen1",` + seen + `}}`, ""},
		{"opted out, eids in ext", `{"user":{"buyeruid":"seen1","ext":{"eids":[{"source":"kith.example","uids":[{"id":"out1"}]}]}}}`, `{"user":{"buyeruid":"seen1","ext":{"eids":[]}}}`, "opted_out"},
		{"opted out, the last of many uids", `{"user":{"eids":[{"source":"kith.example","uids":[` + strings.Repeat(`{"id":1},{"id":"other"},`, 15) + `{"id":"out1"}]}]}}`, `{"user":{"eids":[]}}`, "opted_out"},
		{"many uids of others", `{"user":{"buyeruid":"seen1","data":[],"eids":[{"uids":[` + strings.Repeat(`{"id":"x"},`, 99) + `{"id":"y"}],"source":"x"}]}}`, `{"user":{"buyeruid":"seen1","data":[` + ourData("all", "auto") + `],"eids":[{"uids":[` + strings.Repeat(`{"id":"x"},`, 99) + `{"id":"y"}],"source":"x"},` + ourEID("browser:seen1") + `]}}`, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if !json.Valid([]byte(tt.in)) {
				t.Fatal("the test's request is no JSON")
			}
			w := r.serve("POST", "/v1/openrtb", tt.in, auth, key("acme-key"))
			want := tt.want
			if want == "" {
				want = tt.in
			}
			if got := w.Body.String(); w.Code != 200 || got != want {
				t.Errorf("%d\n got %s\nwant %s", w.Code, got, want)
			}
			if got := w.Header().Get("X-Kith-Withheld"); got != tt.withheld {
				t.Errorf("withheld %q, want %q", got, tt.withheld)
			}
			if ct := w.Header().Get("Content-Type"); ct != "application/json" {
				t.Error(ct)
			}
		})
	}
	if n := len(r.taken()); n != 7 { // all but the one on the block list
		t.Errorf("%d events: a bid request was stored", n)
	}
}

func TestOpenRTBErrors(t *testing.T) {
	r := exchange(t)
	const good = `{"user":{"buyeruid":"seen1"}}`
	for _, tt := range []struct {
		name, key, target, body string
		status                  int
		code                    string
		headers                 []string
	}{
		{"no key", "", "/v1/openrtb", good, 401, "unauthorized", nil},
		{"a report key", "acme-report", "/v1/openrtb", good, 403, "forbidden", nil},
		{"an admin names no client", "admin-key", "/v1/openrtb", good, 400, "client", nil},
		{"an admin", "admin-key", "/v1/openrtb?client=acme", good, 200, "", nil},
		{"another client", "acme-key", "/v1/openrtb?client=demo", good, 403, "forbidden", nil},
		{"after", "acme-key", "/v1/openrtb?after=0:1", good, 200, "", nil},
		{"after what never comes", "acme-key", "/v1/openrtb?after=0:99", good, 504, "timeout", nil},
		{"empty", "acme-key", "/v1/openrtb", "", 400, "json", nil},
		{"an array", "acme-key", "/v1/openrtb", "[]", 400, "json", nil},
		{"null", "acme-key", "/v1/openrtb", "null", 400, "json", nil},
		{"cut off", "acme-key", "/v1/openrtb", good[:20], 400, "json", nil},
		{"two", "acme-key", "/v1/openrtb", good + good, 400, "json", nil},
		{"a comma too many", "acme-key", "/v1/openrtb", `{"user":{"buyeruid":"seen1",}}`, 400, "json", nil},
		{"a comma too many in a list", "acme-key", "/v1/openrtb", `{"user":{"data":[{"id":"kith"},]}}`, 400, "json", nil},
		{"a comma too few", "acme-key", "/v1/openrtb", `{"user":{"data":[{"id":"kith"}{"id":"x"}]}}`, 400, "json", nil},
		{"NaN", "acme-key", "/v1/openrtb", `{"a":NaN}`, 400, "json", nil},
		{"user twice", "acme-key", "/v1/openrtb", `{"user":{},"\u0075ser":{"buyeruid":"seen1"}}`, 400, "json", nil},
		{"regs twice", "acme-key", "/v1/openrtb", `{"regs":{"coppa":1},"regs":{}}`, 400, "json", nil},
		{"lmt twice", "acme-key", "/v1/openrtb", `{"device":{"lmt":1,"lmt":0}}`, 400, "json", nil},
		{"data twice", "acme-key", "/v1/openrtb", `{"user":{"data":[],"data":[]}}`, 400, "json", nil},
		{"user no object", "acme-key", "/v1/openrtb", `{"user":[]}`, 400, "json", nil},
		{"regs no object", "acme-key", "/v1/openrtb", `{"regs":1}`, 400, "json", nil},
		{"data no array", "acme-key", "/v1/openrtb", `{"user":{"data":{}}}`, 400, "json", nil},
		{"eids no array", "acme-key", "/v1/openrtb", `{"user":{"eids":"x"}}`, 400, "json", nil},
		{"too many uids of ours", "acme-key", "/v1/openrtb", `{"user":{"eids":[{"uids":[` + strings.Repeat(`{"id":"x"},`, 16) + `{"id":"y"}],"source":"kith.example"}]}}`, 400, "json", nil},
		{"source twice", "acme-key", "/v1/openrtb", `{"user":{"eids":[{"source":"x","source":"kith.example"}]}}`, 400, "json", nil},
		{"uids twice", "acme-key", "/v1/openrtb", `{"user":{"eids":[{"uids":[],"uids":[]}]}}`, 400, "json", nil},
		{"id of a uid twice", "acme-key", "/v1/openrtb", `{"user":{"eids":[{"uids":[{"id":"a","id":"b"}]}]}}`, 400, "json", nil},
		{"id of data twice", "acme-key", "/v1/openrtb", `{"user":{"data":[{"id":"kith","id":"x"}]}}`, 400, "json", nil},
		{"deep", "acme-key", "/v1/openrtb", `{"ext":` + strings.Repeat("[", 100_000), 400, "json", nil},
		{"deep in user", "acme-key", "/v1/openrtb", `{"user":{"data":[` + strings.Repeat(`{"a":`, 66) + "1" + strings.Repeat("}", 66) + `]}}`, 400, "json", nil},
		{"too large", "acme-key", "/v1/openrtb", `{"a":"` + strings.Repeat("x", 4<<20) + `"}`, 413, "too_large", nil},
		{"protobuf", "acme-key", "/v1/openrtb", good, 415, "media_type", []string{"Content-Type", "application/x-protobuf"}},
		{"compressed badly", "acme-key", "/v1/openrtb", good, 400, "invalid", []string{"Content-Encoding", "gzip"}},
	} {
		headers := tt.headers
		if tt.key != "" {
			headers = append(headers, auth, key(tt.key))
		}
		w := r.serve("POST", tt.target, tt.body, headers...)
		if w.Code != tt.status || code(w) != tt.code {
			t.Errorf("%s: %d %.200s", tt.name, w.Code, w.Body)
		}
	}
	if w := r.serve("GET", "/v1/openrtb", "", auth, key("acme-key")); w.Code != 405 {
		t.Error(w.Code)
	}
}

// TestOpenRTBClients: clients see their own, by other pseudonyms, and with the
// defaults.
func TestOpenRTBClients(t *testing.T) {
	r := exchange(t)
	if w := r.serve("POST", "/v1/events", `{"events":[{"event":"e","identities":["browser:seen1"]}]}`, auth, key("demo-key")); w.Code != 200 {
		t.Fatal(w.Body)
	}
	const in = `{"user":{"eids":[{"source":"kith.example","uids":[{"id":"seen1"}]}]}}`
	acme := r.serve("POST", "/v1/openrtb", in, auth, key("acme-key")).Body.String()
	demo := r.serve("POST", "/v1/openrtb", in, auth, key("demo-key")).Body.String()
	want := `{"user":{"eids":[{"source":"kith.example","uids":[{"id":"` + pseudonym(1, "browser:seen1") + `","atype":1}]}],"data":[{"id":"kith","name":"kith","segment":[{"id":"all"}],"ext":{"segtax":7100}}]}}`
	if demo != want {
		t.Errorf("demo\n got %s\nwant %s", demo, want)
	}
	if strings.Contains(acme, pseudonym(1, "browser:seen1")) || strings.Contains(acme+demo, "seen1") {
		t.Errorf("clients may join, or know the cookie:\n%s\n%s", acme, demo)
	}
	// What names somebody for acme does not for demo.
	if w := r.serve("POST", "/v1/openrtb", `{"user":{"buyeruid":"seen1","id":"seen1"}}`, auth, key("demo-key")); w.Header().Get("X-Kith-Withheld") != "no_identity" {
		t.Errorf("%v %s", w.Header(), w.Body)
	}
}

func TestOpenRTBSegmentsAreBounded(t *testing.T) {
	r := exchange(t)
	r.mu.Lock()
	var many []proto.SegmentID
	for i := range 10 * gateway.BidSegmentsMax {
		many = append(many, proto.SegmentID(fmt.Sprintf("s%d", i)))
	}
	r.members[member{2, "browser:mine1"}] = many
	r.members[member{2, "browser:seen1"}] = []proto.SegmentID{}
	r.mu.Unlock()
	w := r.serve("POST", "/v1/openrtb", `{"user":{"buyeruid":"mine1"}}`, auth, key("acme-key"))
	var x struct {
		User struct {
			Data []struct{ Segment []struct{ ID string } }
			EIDs []any
		}
	}
	if err := json.Unmarshal(w.Body.Bytes(), &x); err != nil || len(x.User.Data) != 1 || len(x.User.Data[0].Segment) != gateway.BidSegmentsMax {
		t.Errorf("%v %.300s", err, w.Body)
	}
	// Known, but in no segment: there is only who it is.
	want := `{"user":{"buyeruid":"seen1","eids":[` + ourEID("browser:seen1") + `]}}`
	if w := r.serve("POST", "/v1/openrtb", `{"user":{"buyeruid":"seen1"}}`, auth, key("acme-key")); w.Body.String() != want {
		t.Error(w.Body)
	}
}

// signal is one way to say no: as a bid request and as a partner's call.
type signal struct {
	name, withheld string
	regs           string // members of regs
	device         string
	user           string
	query          string
	headers        []string
	open           bool // it says nothing against
}

// everySignal is the table of docs/api.md, with what comes close to each.
var everySignal = []signal{
	{name: "none", open: true},
	{name: "lmt", withheld: "lmt", device: `"lmt":1`},
	{name: "lmt as a text", withheld: "lmt", device: `"lmt":"1"`},
	{name: "lmt true", withheld: "lmt", device: `"lmt":true`},
	{name: "lmt off", device: `"lmt":0`, open: true},
	{name: "lmt null", device: `"lmt":null`, open: true},
	{name: "dnt", withheld: "dnt", device: `"dnt":1`},
	{name: "dnt off", device: `"dnt":0`, open: true},
	{name: "dnt, the header", withheld: "dnt", headers: []string{"DNT", "1"}},
	{name: "dnt, the header off", headers: []string{"DNT", "0"}, open: true},
	{name: "gpc, the header", withheld: "gpc", headers: []string{"Sec-GPC", "1"}},
	{name: "gpc in ext, text", withheld: "gpc", regs: `"ext":{"gpc":"1"}`},
	{name: "gpc in ext, number", withheld: "gpc", regs: `"ext":{"gpc":1}`},
	{name: "gpc in regs", withheld: "gpc", regs: `"gpc":1`},
	{name: "gpc in regs, text", withheld: "gpc", regs: `"gpc":"1"`},
	{name: "gpc unreadable", withheld: "gpc", regs: `"gpc":{}`},
	{name: "gpc off", regs: `"gpc":0,"ext":{"gpc":"0"}`, open: true},
	{name: "gpc on, off in ext", withheld: "gpc", regs: `"gpc":1,"ext":{"gpc":0}`},
	{name: "gpc off, on in ext", withheld: "gpc", regs: `"gpc":"0","ext":{"gpc":"1"}`},
	{name: "gpc empty", regs: `"ext":{"gpc":""}`, open: true},
	{name: "coppa", withheld: "coppa", regs: `"coppa":1`},
	{name: "coppa off", regs: `"coppa":0`, open: true},
	{name: "gdpr, refused", withheld: "gdpr", regs: `"gdpr":1`, user: `"consent":"` + refused + `"`, query: "gdpr=1&gdpr_consent=" + refused},
	{name: "gdpr, no string", withheld: "gdpr", regs: `"gdpr":1`, query: "gdpr=1"},
	{name: "gdpr, empty string", withheld: "gdpr", regs: `"gdpr":1`, user: `"consent":""`, query: "gdpr=1&gdpr_consent="},
	{name: "gdpr, broken string", withheld: "gdpr", regs: `"gdpr":1`, user: `"consent":"C%!"`, query: "gdpr=1&gdpr_consent=C!"},
	{name: "gdpr, no text", withheld: "gdpr", regs: `"gdpr":1`, user: `"consent":{"yes":true}`},
	{name: "gdpr, consented", regs: `"gdpr":1`, user: `"consent":"` + consented + `"`, query: "gdpr=1&gdpr_consent=" + consented, open: true},
	{name: "gdpr in ext, refused", withheld: "gdpr", regs: `"ext":{"gdpr":1}`, user: `"ext":{"consent":"` + refused + `"}`},
	{name: "gdpr in ext, no string", withheld: "gdpr", regs: `"ext":{"gdpr":1}`},
	{name: "gdpr in ext, consented", regs: `"ext":{"gdpr":1}`, user: `"ext":{"consent":"` + consented + `"}`, open: true},
	{name: "gdpr, two strings, one refuses", withheld: "gdpr", regs: `"gdpr":1`, user: `"consent":"` + consented + `","ext":{"consent":"` + refused + `"}`},
	{name: "gdpr, two strings, the other refuses", withheld: "gdpr", regs: `"gdpr":1`, user: `"consent":"` + refused + `","ext":{"consent":"` + consented + `"}`},
	{name: "no gdpr, refused", regs: `"gdpr":0`, user: `"consent":"` + refused + `"`, query: "gdpr=0&gdpr_consent=" + refused, open: true},
	{name: "gdpr by gpp_sid, refused", withheld: "gdpr", regs: `"gpp":"DBABMA~` + refused + `","gpp_sid":[2]`, query: "gpp=DBABMA~" + refused + "&gpp_sid=2"},
	{name: "gdpr by gpp_sid, consented", regs: `"gpp":"DBABMA~` + consented + `","gpp_sid":[2]`, query: "gpp=DBABMA~" + consented + "&gpp_sid=2", open: true},
	{name: "gdpr by gpp_sid, no string", withheld: "gdpr", regs: `"gpp_sid":[2]`, query: "gpp_sid=2"},
	{name: "us_privacy", withheld: "us_privacy", regs: `"us_privacy":"1YYN"`, query: "us_privacy=1YYN"},
	{name: "us_privacy, lower case", withheld: "us_privacy", regs: `"us_privacy":"1nyn"`, query: "us_privacy=1nyn"},
	{name: "us_privacy in ext", withheld: "us_privacy", regs: `"ext":{"us_privacy":"1NYN"}`},
	{name: "us_privacy, both, one refuses", withheld: "us_privacy", regs: `"us_privacy":"1YNN","ext":{"us_privacy":"1NYN"}`},
	{name: "us_privacy, none", regs: `"us_privacy":"1YNY"`, query: "us_privacy=1YNY", open: true},
	{name: "us_privacy, not applicable", regs: `"us_privacy":"1---"`, query: "us_privacy=1---", open: true},
	{name: "gpp", withheld: "gpp", regs: `"gpp":"DBABLA~` + usSection(1, 6, 1, 2, 2) + `","gpp_sid":[7]`, query: "gpp=DBABLA~" + usSection(1, 6, 1, 2, 2) + "&gpp_sid=7"},
	{name: "gpp in ext", withheld: "gpp", regs: `"ext":{"gpp":"DBABLA~` + usSection(1, 6, 1, 2, 2) + `","gpp_sid":[7]}`},
	{name: "gpp, none in force said", withheld: "gpp", regs: `"gpp":"DBABLA~` + usSection(1, 6, 1, 2, 2) + `"`, query: "gpp=DBABLA~" + usSection(1, 6, 1, 2, 2)},
	{name: "gpp, an empty sid", withheld: "gpp", regs: `"gpp":"DBABLA~` + usSection(1, 6, 1, 2, 2) + `","gpp_sid":[]`, query: "gpp=DBABLA~" + usSection(1, 6, 1, 2, 2) + "&gpp_sid="},
	{name: "gpp, none in force", regs: `"gpp":"DBABLA~` + usSection(1, 6, 1, 2, 2) + `","gpp_sid":[-1]`, query: "gpp=DBABLA~" + usSection(1, 6, 1, 2, 2) + "&gpp_sid=-1", open: true},
	{name: "gpp, not known which are in force", withheld: "gpp", regs: `"gpp":"DBABLA~` + usSection(1, 6, 1, 2, 2) + `","gpp_sid":[0]`, query: "gpp=DBABLA~" + usSection(1, 6, 1, 2, 2) + "&gpp_sid=0"},
	{name: "gpp, not known which are in force, open", regs: `"gpp":"DBABLA~BVVqAAAAAAA.QA","gpp_sid":[0]`, query: "gpp=DBABLA~BVVqAAAAAAA.QA&gpp_sid=0", open: true},
	{name: "gpp_sid, a part of a number", withheld: "gpp", regs: `"gpp":"DBABLA~BVVqAAAAAAA.QA","gpp_sid":[0.5]`},
	{name: "gpp, no numbers", withheld: "gpp", regs: `"gpp":"DBABLA~BVVqAAAAAAA.QA","gpp_sid":["x"]`},
	{name: "gpp, numbers as texts", regs: `"gpp":"DBABLA~BVVqAAAAAAA.QA","gpp_sid":["7"]`, open: true},
	{name: "gpp_sid without a string", withheld: "gpp", regs: `"gpp_sid":[8]`, query: "gpp_sid=8"},
	{name: "gpp_sid as apps keep it, refused", withheld: "gdpr", regs: `"gpp_sid":["2"]`, user: `"consent":"` + refused + `"`, query: "gpp_sid=2_6&gdpr_consent=" + refused},
	{name: "gdpr not said, refused", withheld: "gdpr", user: `"consent":"` + refused + `"`, query: "gdpr_consent=" + refused},
	{name: "gdpr not said, consented", user: `"consent":"` + consented + `"`, query: "gdpr_consent=" + consented, open: true},
	{name: "gdpr null, refused", withheld: "gdpr", regs: `"gdpr":null`, user: `"consent":"` + refused + `"`, query: "gdpr=&gdpr_consent=" + refused},
	{name: "gpp, refused TCF section, none in force said", withheld: "gdpr", regs: `"gpp":"DBABMA~` + refused + `"`, query: "gpp=DBABMA~" + refused},
	{name: "gpp, a state with another layout", withheld: "gpp", regs: `"gpp":"DBABCY~aBABYA.BVVV.kkk"`, query: "gpp=DBABCY~aBABYA.BVVV.kkk"},
	{name: "us_privacy, no text", withheld: "us_privacy", regs: `"us_privacy":["1YNN"]`},
	{name: "us_privacy, too short", withheld: "us_privacy", regs: `"us_privacy":"1N"`, query: "us_privacy=1N"},
	{name: "gpp, unreadable", withheld: "gpp", regs: `"gpp":"what"`, query: "gpp=what"},
	{name: "gpp, no text", withheld: "gpp", regs: `"gpp":7`},
	{name: "gpp, sid no list", withheld: "gpp", regs: `"gpp":"DBABLA~BVVqAAAAAAA.QA","gpp_sid":{"a":7}`, query: "gpp=DBABLA~BVVqAAAAAAA.QA&gpp_sid=x"},
	{name: "gpp, open", regs: `"gpp":"DBABLA~BVVqAAAAAAA.QA","gpp_sid":[7]`, query: "gpp=DBABLA~BVVqAAAAAAA.QA&gpp_sid=7", open: true},
	{name: "gpp, sid as a text", regs: `"gpp":"DBABLA~BVVqAAAAAAA.QA","gpp_sid":"7"`, open: true},
	{name: "all together", withheld: "lmt", device: `"lmt":1,"dnt":1`, regs: `"gpc":1,"coppa":1,"gdpr":1,"us_privacy":"1YYY"`},
}

func TestSignalsOfBidRequests(t *testing.T) {
	for _, s := range everySignal {
		t.Run(s.name, func(t *testing.T) {
			r := exchange(t)
			comma := ""
			if s.user != "" {
				comma = ","
			}
			// The signals come behind whom they are about.
			in := `{"user":{"buyeruid":"seen1"` + comma + s.user + `},"regs":{` + s.regs + `},"device":{` + s.device + `}}`
			w := r.serve("POST", "/v1/openrtb", in, append(s.headers, auth, key("acme-key"))...)
			got := w.Header().Get("X-Kith-Withheld")
			if w.Code != 200 || got != s.withheld {
				t.Fatalf("%d withheld %q, want %q: %s", w.Code, got, s.withheld, w.Body)
			}
			if (w.Body.String() == in) == s.open {
				t.Errorf("answered %s", w.Body)
			}
			if len(r.taken()) != 7 {
				t.Error("something was stored")
			}
		})
	}
}

// TestSignalsInABidRequestsQuery: what is passed on beside the bid request counts too.
func TestSignalsInABidRequestsQuery(t *testing.T) {
	r := exchange(t)
	const in = `{"user":{"buyeruid":"seen1"}}`
	for query, want := range map[string]string{"": "", "coppa=1": "coppa", "gpc=1": "gpc", "dnt=1": "dnt", "lmt=1": "lmt", "gdpr=1": "gdpr", "us_privacy=1YYN": "us_privacy", "gpp_sid=7&gpp=x": "gpp", "after=": ""} {
		w := r.serve("POST", "/v1/openrtb?"+query, in, auth, key("acme-key"))
		if got := w.Header().Get("X-Kith-Withheld"); w.Code != 200 || got != want || (w.Body.String() == in) != (want != "") {
			t.Errorf("%q: %d withheld %q: %s", query, w.Code, got, w.Body)
		}
	}
}

// TestVendor: consent to the purposes alone does not do for an operator who is a
// vendor.
func TestVendor(t *testing.T) {
	r := exchange(t, func(c *gateway.Config) { c.TCFVendor = 6 })
	for vendors, open := range map[string]bool{"": false, fmt.Sprintf("%016b 0 0100010100", 10): true, fmt.Sprintf("%016b 0 0100000100", 10): false} {
		in := `{"user":{"buyeruid":"seen1","consent":"` + tcString(2, []int{1, 3, 4}, vendors) + `"},"regs":{"gdpr":1}}`
		if got := r.serve("POST", "/v1/openrtb", in, auth, key("acme-key")).Header().Get("X-Kith-Withheld"); (got == "") != open {
			t.Errorf("vendors %q: withheld %q", vendors, got)
		}
	}
}

func TestOpenRTBMetrics(t *testing.T) {
	r := exchange(t)
	for _, in := range []string{`{"user":{"buyeruid":"seen1"}}`, `{"user":{"buyeruid":"seen1"},"regs":{"coppa":1}}`} {
		r.serve("POST", "/v1/openrtb", in, auth, key("acme-key"))
	}
	text := r.serve("GET", "/metrics", "").Body.String()
	for _, want := range []string{`kith_gateway_bid_requests_total{withheld="none"} 1`, `kith_gateway_bid_requests_total{withheld="coppa"} 1`} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s", want)
		}
	}
}

// FuzzOpenRTB: an answer is JSON, and the request but for user.data and
// user.eids, as encoding/json reads both; of those all entries of others are
// kept, in their order, and at most one of ours is the last.
func FuzzOpenRTB(f *testing.F) {
	f.Add([]byte(`{"id":"1","imp":[{"id":"1","bidfloor":1.50}],"user":{"buyeruid":"seen1","data":[{"id":"x"},{"id":"kith"}],"eids":[{"source":"kith.example","uids":[{"id":"mine1"}]}]},"device":{"ifa":"EA7583CD-A667-48BC-B806-42ECB2B48606","lmt":0},"regs":{"ext":{"gpc":"0"}}}`))
	f.Add([]byte(`{"user":null,"device":{"ifa":"EA7583CD-A667-48BC-B806-42ECB2B48606"},"regs":{"gpp_sid":[2,-1],"gpp":"DBAA"}}`))
	f.Add([]byte(`{"user":{"data":null,"eids":[{},{"source":"a"},[],{"uids":[{"id":"account:a1"}],"source":"Kith.example"}]}}`))
	f.Add([]byte(`{"user":{"buyeruid":"out1","data":[{"id":"kith"},{"id":"kith"},1,{"id":"kith"}]}}`))
	f.Add([]byte(`{"\u0075ser":{"b\u0075yeruid":"se\u0065n1"},"regs":{"coppa":1}} `))
	f.Add([]byte(`{"device":{"ifa":"EA7583CD-A667-48BC-B806-42ECB2B48606","dnt":1}}`))
	f.Add([]byte(`{ }`))
	r := exchange(f)
	f.Fuzz(func(t *testing.T, in []byte) {
		w := r.serve("POST", "/v1/openrtb", string(in), auth, key("acme-key"))
		if w.Code != 200 {
			if c := code(w); w.Code != 400 || c != "json" {
				t.Fatalf("%q: %d %s", in, w.Code, w.Body)
			}
			if says := w.Body.String(); json.Valid(in) && !strings.Contains(says, "must be") && !strings.Contains(says, "deep") && !strings.Contains(says, "twice") {
				t.Fatalf("%q is JSON: %s", in, w.Body)
			}
			return
		}
		compareBids(t, in, w.Body.Bytes(), w.Header().Get("X-Kith-Withheld"))
	})
}

func compareBids(t *testing.T, in, out []byte, withheld string) {
	t.Helper()
	asked, answered := members(t, in), members(t, out)
	for name, v := range asked {
		if name != "user" && string(answered[name]) != string(v) {
			t.Fatalf("%q: %q was %s, is %s", in, name, v, answered[name])
		}
	}
	user, now := members(t, asked["user"]), members(t, answered["user"])
	for name, v := range user {
		if name != "data" && name != "eids" && string(now[name]) != string(v) {
			t.Fatalf("%q: user's %q was %s, is %s", in, name, v, now[name])
		}
	}
	for name := range answered {
		if _, ok := asked[name]; !ok && name != "user" {
			t.Fatalf("%q: %q is new", in, name)
		}
	}
	for name := range now {
		if _, ok := user[name]; !ok && name != "data" && name != "eids" {
			t.Fatalf("%q: user's %q is new", in, name)
		}
	}
	changed := compareLists(t, in, user["data"], now["data"], withheld, func(e map[string]json.RawMessage) bool { return textOf(e["id"]) == "kith" })
	changed = compareLists(t, in, user["eids"], now["eids"], withheld, func(e map[string]json.RawMessage) bool {
		return strings.EqualFold(textOf(e["source"]), "kith.example")
	}) || changed
	if !changed && string(in) != string(out) {
		t.Fatalf("nothing was to do with %q: %q", in, out)
	}
	if withheld == "" && now["eids"] == nil {
		t.Fatalf("%q: nothing withheld, nothing told: %s", in, out)
	}
	if withheld == "" && saysNo(t, asked) {
		t.Fatalf("%q was filled", in)
	}
}

// saysNo reports whether a request says one of the plain signals.
func saysNo(t *testing.T, asked map[string]json.RawMessage) bool {
	device, regs := members(t, asked["device"]), members(t, asked["regs"])
	ext := members(t, regs["ext"])
	for _, v := range []json.RawMessage{device["lmt"], device["dnt"], regs["coppa"], regs["gpc"], ext["gpc"], ext["coppa"]} {
		if s := string(v); s == "1" || s == `"1"` || s == "true" {
			return true
		}
	}
	return false
}

// compareLists reports whether something of ours was in the list, or is.
func compareLists(t *testing.T, in []byte, before, after json.RawMessage, withheld string, own func(map[string]json.RawMessage) bool) (changed bool) {
	t.Helper()
	split := func(raw json.RawMessage) (others []string, ours int, last bool) {
		var list []json.RawMessage
		if len(raw) > 0 {
			if err := json.Unmarshal(raw, &list); err != nil {
				t.Fatalf("%q: %s: %v", in, raw, err)
			}
		}
		for _, e := range list {
			var object map[string]json.RawMessage
			if last = json.Unmarshal(e, &object) == nil && own(object); last {
				ours++
			} else {
				others = append(others, string(e))
			}
		}
		return others, ours, last
	}
	was, had, _ := split(before)
	is, have, last := split(after)
	if !slices.Equal(was, is) {
		t.Fatalf("%q: others' entries were %q, are %q", in, was, is)
	}
	if have > 1 || have == 1 && !last || have > 0 && withheld != "" {
		t.Fatalf("%q: %d entries of ours, withheld %q: %s", in, have, withheld, after)
	}
	return had > 0 || have > 0
}

// members reads an object; null has none.
func members(t *testing.T, raw []byte) map[string]json.RawMessage {
	t.Helper()
	m := map[string]json.RawMessage{}
	if len(raw) == 0 {
		return m
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatalf("%q: %v", raw, err)
	}
	return maps.Clone(m)
}

// textOf is a JSON string's value, "" of anything else.
func textOf(raw json.RawMessage) (s string) {
	if json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}
