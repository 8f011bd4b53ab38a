package gateway_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	gproto "google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"kith/gateway"
	"kith/proto"
	"kith/proto/pb"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func newParser() *gateway.Parser {
	return &gateway.Parser{Hasher: proto.NewHasher([16]byte{}), Now: proto.MillisOf(now), Resolve: func(name string) (proto.ClientInfo, error) {
		if name != "demo" {
			return proto.ClientInfo{}, proto.Errorf(proto.CodeClient, "unknown")
		}
		return demo, nil
	}}
}

var demo = proto.ClientInfo{ID: 7, Name: "demo", Space: 9}

// packed reads a batch back.
func packed(t testing.TB, b *proto.Batch) []proto.Event {
	t.Helper()
	var out []proto.Event
	for i := range b.Len() {
		item, _ := b.Item(i)
		c, rest, err := proto.NextCommand(bytes.Clone(item))
		if err != nil || len(rest) != 0 {
			t.Fatalf("command %d: %v, %d bytes left", i, err, len(rest))
		}
		var e proto.Event
		if err := proto.DecodeEvent(c.Body, &e); err != nil {
			t.Fatal(err)
		}
		out = append(out, e)
	}
	return out
}

func TestParsePost(t *testing.T) {
	p := newParser()
	body := `{"extra":{"a":[1,{"b":null}]},"events":[
		{"event":"page","time":"2026-11-22T11:59:58.250+00:00","id":"e1","identities":["browser:abc1","account:x\u00e91","browser:abc1"],
		 "props":{"section":"auto","price":12.5,"new":true,"old":false,"none":null,"emoji":"\ud83d\ude00 \"q\" \/"},"url":"https://x.de/a?b=c","ref":"https://y.de/","unknown":[[[]]]},
		{"event":"click","identities":["idfa:AB-1"],"props":{}}
	],"client":"demo"}`
	if err := p.Parse([]byte(body), nil); err != nil {
		t.Fatal(err)
	}
	want := []proto.Event{
		{
			Client: 7, Space: 9, Time: proto.MillisOf(now.Add(-1750 * time.Millisecond)), Received: proto.MillisOf(now), ID: "e1",
			Identities: []proto.Identity{"browser:abc1", "account:xé1"},
			EventBody: proto.EventBody{Name: "page", URL: "https://x.de/a?b=c", Ref: "https://y.de/", Props: []proto.Prop{
				{Key: "section", Value: proto.TextOf("auto")}, {Key: "price", Value: proto.NumberOf(12.5)}, {Key: "new", Value: proto.FlagOf(true)},
				{Key: "old", Value: proto.FlagOf(false)}, {Key: "emoji", Value: proto.TextOf("😀 \"q\" /")},
			}},
		},
		{
			Client: 7, Space: 9, Time: proto.MillisOf(now), Received: proto.MillisOf(now), Identities: []proto.Identity{"idfa:AB-1"},
			EventBody: proto.EventBody{Name: "click"},
		},
	}
	if d := cmp.Diff(want, packed(t, p.Batch())); d != "" {
		t.Error(d)
	}
	if len(p.Refused()) != 0 {
		t.Error(p.Refused())
	}
}

// event wraps fields into a body with a sound event before and after.
func bodyOf(event string) []byte {
	const sound = `{"event":"page","identities":["browser:b1"]}`
	return []byte(`{"client":"demo","events":[` + sound + `,` + event + `,` + sound + `]}`)
}

func TestRefusals(t *testing.T) {
	long := strings.Repeat("x", 3000)
	var props, ids []string
	for i := range 65 {
		props = append(props, fmt.Sprintf(`"k%d":1`, i))
	}
	for i := range 9 {
		ids = append(ids, fmt.Sprintf(`"browser:b%d"`, i))
	}
	with := func(fields string) string { return `{"event":"page","identities":["browser:b1"],` + fields + `}` }
	tests := []struct {
		name, event string
		code        proto.Code
	}{
		{"a number under a name", with(`"props":{"bsn":123456782}`), proto.CodePII},
		{"a telephone number without its zero", with(`"props":{"phone":612345678}`), proto.CodePII},
		{"digits under a password", with(`"props":{"password":123456}`), proto.CodePII},
		{"a password under a nested name", with(`"props":{"user.password":"hunter2"}`), proto.CodePII},
		{"a password under a name in brackets", with(`"props":{"user[password]":"hunter2"}`), proto.CodePII},
		{"a token under a nested name", with(`"props":{"login.access_token":"abcdef0123456789"}`), proto.CodePII},
		{"a telephone number under a nested name", with(`"props":{"contact.mobile":"4155552671"}`), proto.CodePII},
		{"a telephone number under a longer name", with(`"props":{"billing_phone":"4155552671"}`), proto.CodePII},
		{"a telephone number under words joined", with(`"props":{"customerPhoneNumber":4155552671}`), proto.CodePII},
		{"a number under a nested name", with(`"props":{"user.ssn":"123456789"}`), proto.CodePII},
		{"an address", with(`"props":{"ip":"203.0.113.7"}`), proto.CodePII},
		{"an address under a nested name", with(`"props":{"user.ip":"2001:db8:1:2::7"}`), proto.CodePII},
		{"an address with a port, of several", with(`"props":{"X-Forwarded-For":"203.0.113.7:4711, 10.0.0.1"}`), proto.CodePII},
		{"a control character above ASCII", with(`"url":"https://h/\u0085"`), proto.CodeEvent},
		{"no object", `7`, proto.CodeEvent},
		{"no object but an array", `[{}]`, proto.CodeEvent},
		{"no name", `{"identities":["browser:b1"]}`, proto.CodeEvent},
		{"empty name", `{"event":"","identities":["browser:b1"]}`, proto.CodeEvent},
		{"null name", `{"event":null,"identities":["browser:b1"]}`, proto.CodeEvent},
		{"name not text", `{"event":5,"identities":["browser:b1"]}`, proto.CodeEvent},
		{"long name", `{"event":"` + long[:129] + `","identities":["browser:b1"]}`, proto.CodeEvent},
		{"NUL in name", `{"event":"a\u0000b","identities":["browser:b1"]}`, proto.CodeEvent},
		{"DEL in name", "{\"event\":\"a\x7fb\",\"identities\":[\"browser:b1\"]}", proto.CodeEvent},
		{"field twice", `{"event":"a","event":"b","identities":["browser:b1"]}`, proto.CodeEvent},
		{"no identity", `{"event":"page"}`, proto.CodeIdentity},
		{"identities empty", `{"event":"page","identities":[]}`, proto.CodeIdentity},
		{"identities no array", `{"event":"page","identities":"browser:b1"}`, proto.CodeIdentity},
		{"identity no string", `{"event":"page","identities":[{"a":1}]}`, proto.CodeIdentity},
		{"identity kind", `{"event":"page","identities":["fax:1"]}`, proto.CodeIdentity},
		{"identity junk", `{"event":"page","identities":["idfa:00000000-0000-0000-0000-000000000000"]}`, proto.CodeIdentity},
		{"identity of a macro", `{"event":"page","identities":["browser:b1","partner.adx:${UID}"]}`, proto.CodeIdentity},
		{"identity of a macro, escaped", `{"event":"page","identities":["partner.adx:%5BUID%5D"]}`, proto.CodeIdentity},
		{"identity of an empty text's hash", `{"event":"page","identities":["account:d41d8cd98f00b204e9800998ecf8427e"]}`, proto.CodeIdentity},
		{"identity CRLF", `{"event":"page","identities":["browser:a\r\nb"]}`, proto.CodeIdentity},
		{"identity NUL", `{"event":"page","identities":["browser:a\u0000"]}`, proto.CodeIdentity},
		{"identity invalid UTF-8", "{\"event\":\"page\",\"identities\":[\"browser:a\xff\"]}", proto.CodeIdentity},
		{"identity long", `{"event":"page","identities":["browser:` + long[:257] + `"]}`, proto.CodeIdentity},
		{"nine identities", `{"event":"page","identities":[` + strings.Join(ids, ",") + `]}`, proto.CodeIdentity},
		{"65 props", with(`"props":{` + strings.Join(props, ",") + `}`), proto.CodeEvent},
		{"props no object", with(`"props":[1]`), proto.CodeEvent},
		{"prop nested", with(`"props":{"a":{"b":[1]}}`), proto.CodeEvent},
		{"prop twice", with(`"props":{"a":1,"\u0061":2}`), proto.CodeEvent},
		{"prop key empty", with(`"props":{"":1}`), proto.CodeEvent},
		{"prop key long", with(`"props":{"` + long[:65] + `":1}`), proto.CodeEvent},
		{"prop text long", with(`"props":{"a":"` + long[:1025] + `"}`), proto.CodeEvent},
		{"prop number too big", with(`"props":{"a":1e999}`), proto.CodeEvent},
		{"prop control", with(`"props":{"a":"x\ty"}`), proto.CodeEvent},
		{"prop invalid UTF-8", with("\"props\":{\"a\":\"long enough \xc3\x28 text\"}"), proto.CodeEvent},
		{"half a surrogate", with(`"props":{"a":"\ud800"}`), proto.CodeEvent},
		{"halves swapped", with(`"props":{"a":"\ude00\ud83d"}`), proto.CodeEvent},
		{"url long", with(`"url":"` + long[:2049] + `"`), proto.CodeEvent},
		{"ref long", with(`"ref":"` + long[:2049] + `"`), proto.CodeEvent},
		{"id long", with(`"id":"` + long[:129] + `"`), proto.CodeEvent},
		{"time no string", with(`"time":1700000000`), proto.CodeTime},
		{"time not RFC 3339", with(`"time":"yesterday"`), proto.CodeTime},
		{"year 0", with(`"time":"0000-01-01T00:00:00Z"`), proto.CodeTime},
		{"year 9999", with(`"time":"9999-12-31T23:59:59Z"`), proto.CodeTime},
		{"31 days back", with(`"time":"` + now.Add(-31*24*time.Hour).Format(time.RFC3339) + `"`), proto.CodeTime},
		{"6 minutes ahead", with(`"time":"` + now.Add(6*time.Minute).Format(time.RFC3339) + `"`), proto.CodeTime},
		{"mail in prop", with(`"props":{"q":"write to jo.doe@example.com now"}`), proto.CodePII},
		{"mail in url", with(`"url":"https://x.de/?u=jo@example.com"`), proto.CodePII},
		{"mail in url, escaped", with(`"url":"https://x.de/?u=jo%40example.com"`), proto.CodePII},
		{"mail behind a JSON escape", with(`"url":"https://x.de/?u=jo\u0040example.com"`), proto.CodePII},
		{"mail in identity", `{"event":"page","identities":["account:jo@example.com"]}`, proto.CodePII},
		{"mail in id", with(`"id":"jo@example.com"`), proto.CodePII},
		{"mail in ref", with(`"ref":"mailto:jo@example.com"`), proto.CodePII},
	}
	p := newParser()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := p.Parse(bodyOf(tt.event), nil); err != nil {
				t.Fatal(err)
			}
			r := p.Refused()
			if len(r) == 1 && tt.name == "time no string" && !strings.Contains(r[0].Message, "time") {
				t.Errorf("%q does not name the field", r[0].Message)
			}
			if len(r) != 1 || r[0].Code != tt.code || r[0].Index != 1 || r[0].Message == "" {
				t.Errorf("refused %+v, want index 1 with code %s", r, tt.code)
			}
			if d := cmp.Diff([]int{0, 2}, p.Indexes()); d != "" {
				t.Error("the sound events around it:", d)
			}
		})
	}
}

func TestEdgesThatAreTaken(t *testing.T) {
	p := newParser()
	for _, event := range []string{
		`{"event":"` + strings.Repeat("x", 128) + `","identities":["browser:b1"]}`,
		`{"event":"page","identities":["browser:*.>"]}`,
		`{"event":"page","identities":["partner.acme:77"],"url":"https://medium.com/@jo.doe/x"}`,
		`{"event":"page","identities":["browser:b1"],"props":{"a":"` + strings.Repeat("é", 512) + `"}}`,
		`{"event":"page","identities":["browser:b1"],"time":"` + now.Add(-30*24*time.Hour).Format(time.RFC3339) + `"}`,
		`{"event":"page","identities":["browser:b1"],"time":"` + now.Add(5*time.Minute).Format(time.RFC3339) + `"}`,
		`{"event":"page","identities":["browser:b1"],"time":null,"props":null,"id":null,"url":null}`,
		`{"event":"page","identities":["browser:b1"],"ua":"tab\there"}`,
		`{"event":"page","identities":["browser:b1"],"props":{"design.color":"hunter2","season_pass":"gold","is_mobile":"true","headphone":"12345678","order.number":"4155552671","smartphone":"Galaxy 24","user.session":"4711","visits_mobile":1500000,"revenue.mobile":1500000,"design.token":"color-primary-500","channel":"Новости@Канал.Главное"}}`,
		`{"event":"page","identities":["browser:b1"],"props":{"ip":"203.0.113.0","client_ip":"2001:db8:1::","ipv4":"127.0.0.1","userip":"yes","version":"1.2.3.4","host":"203.0.113.7","remote.addr":"n/a, none"}}`,
		`{"event":"page","identities":["partner.adx:{3F2504E0-4F89-11D3-9A0C-0305E82C3301}"]}`,
	} {
		if err := p.Parse(bodyOf(event), nil); err != nil {
			t.Fatal(err)
		}
		if r := p.Refused(); len(r) != 0 {
			t.Errorf("%s: refused %+v", event, r)
		}
	}
}

func TestBrokenBodies(t *testing.T) {
	deep := strings.Repeat("[", 100_000)
	tests := []struct {
		name, body string
		code       proto.Code
	}{
		{"empty", ``, proto.CodeJSON},
		{"array", `[]`, proto.CodeJSON},
		{"cut off", `{"client":"demo","events":[{"event":"page"`, proto.CodeJSON},
		{"garbage behind", `{"client":"demo","events":[]} x`, proto.CodeJSON},
		{"comma last", `{"client":"demo","events":[],}`, proto.CodeJSON},
		{"NaN", string(bodyOf(`{"event":"page","identities":["browser:b1"],"props":{"a":NaN}}`)), proto.CodeJSON},
		{"Infinity", string(bodyOf(`{"event":"page","props":{"a":-Infinity}}`)), proto.CodeJSON},
		{"leading zero", string(bodyOf(`{"event":"page","props":{"a":01}}`)), proto.CodeJSON},
		{"raw control character", string(bodyOf("{\"event\":\"a\nb\"}")), proto.CodeJSON},
		{"raw NUL", string(bodyOf("{\"event\":\"a\x00b\"}")), proto.CodeJSON},
		{"bad escape", string(bodyOf(`{"event":"a\x"}`)), proto.CodeJSON},
		{"100,000 deep in an unknown field", string(bodyOf(`{"event":"page","x":` + deep + `}`)), proto.CodeJSON},
		{"100,000 deep in a prop", string(bodyOf(`{"event":"page","props":{"x":` + deep + `}}`)), proto.CodeJSON},
		{"100,000 deep at the top", `{"x":` + deep, proto.CodeJSON},
		{"100,000 deep instead of events", `{"client":"demo","events":` + strings.ReplaceAll(deep, "[", `[`), proto.CodeJSON},
		{"events no array", `{"client":"demo","events":{}}`, proto.CodeJSON},
		{"no events", `{"client":"demo"}`, proto.CodeJSON},
		{"events twice", `{"client":"demo","events":[],"events":[]}`, proto.CodeJSON},
		{"client twice", `{"client":"demo","client":"demo","events":[]}`, proto.CodeJSON},
		{"client no string", `{"client":1,"events":[]}`, proto.CodeJSON},
		{"no client", `{"events":[{"event":"page"}]}`, proto.CodeClient},
		{"unknown client", `{"client":"nobody","events":[]}`, proto.CodeClient},
		{"1001 events", `{"client":"demo","events":[` + strings.Repeat(`1,`, 1000) + `1]}`, proto.CodeTooLarge},
	}
	p := newParser()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := p.Parse([]byte(tt.body), nil)
			if proto.CodeOf(err) != tt.code {
				t.Errorf("got %v, want code %s", err, tt.code)
			}
			if len(fmt.Sprint(err)) > 300 {
				t.Errorf("message of %d bytes", len(fmt.Sprint(err)))
			}
		})
	}
}

func TestNesting(t *testing.T) {
	nested := func(n int) []byte {
		var b bytes.Buffer
		for i := range n {
			b.WriteString([]string{`[1,`, `{"a":`, `{"b":[],"c":`}[i%3])
		}
		b.WriteByte('7')
		for i := n - 1; i >= 0; i-- {
			b.WriteString([]string{`]`, `}`, `}`}[i%3])
		}
		return b.Bytes()
	}
	for n := range 65 {
		if err := gateway.SkipJSON(nested(n)); err != nil {
			t.Errorf("%d deep: %v", n, err)
		}
	}
	for _, n := range []int{65, 66, 1000, 100_000} {
		if err := gateway.SkipJSON(nested(n)); err == nil || !strings.Contains(err.Error(), "more than 64 deep") {
			t.Errorf("%d deep: %v", n, err)
		}
	}
	crossed := bytes.Replace(nested(40), []byte("]"), []byte("}"), 1)
	if err := gateway.SkipJSON(crossed); err == nil {
		t.Error("brackets that do not match are taken")
	}
}

func TestErrorPosition(t *testing.T) {
	err := newParser().Parse([]byte("{\"client\":\"demo\",\n  \"events\":[x]}"), nil)
	var e *proto.Error
	if !errors.As(err, &e) || e.Line != 2 || e.Column != 13 {
		t.Errorf("got %v, want line 2, column 13", err)
	}
}

// TestReuse parses bodies of many shapes with one parser: nothing of one may
// show in the next.
func TestReuse(t *testing.T) {
	bodies := [][]byte{
		bodyOf(`{"event":"a\u00e9","identities":["browser:x1"],"props":{"k\u0031":"v\u0031"}}`), bodyOf(`{"event":"page"}`),
		[]byte(`{"client":"demo","events":[]}`), bodyOf(`{"event":"page","identities":["browser:x2"],"url":"u"}`), []byte(`{`),
	}
	rapid.Check(t, func(rt *rapid.T) {
		reused := newParser()
		for range rapid.IntRange(1, 8).Draw(rt, "bodies") {
			b := rapid.SampledFrom(bodies).Draw(rt, "body")
			fresh := newParser()
			err1, err2 := fresh.Parse(b, nil), reused.Parse(bytes.Clone(b), nil)
			if fmt.Sprint(err1) != fmt.Sprint(err2) || !bytes.Equal(fresh.Batch().Bytes(), reused.Batch().Bytes()) || !cmp.Equal(fresh.Refused(), reused.Refused()) {
				rt.Fatalf("%s: %v and %v", b, err1, err2)
			}
		}
	})
}

func TestPlainIdentity(t *testing.T) {
	alphabet := rapid.SampledFrom([]string{"browser", "account", "idfa", "aaid", "stat", "partner.x", "fax", ""})
	rapid.Check(t, func(rt *rapid.T) {
		s := alphabet.Draw(rt, "kind") + ":" + rapid.OneOf(
			rapid.StringMatching(`[a-zA-Z0-9_-]{0,40}`), rapid.SampledFrom([]string{"null", "0", "-1", "anonymous", "00000000-0000-0000-0000-000000000000", "[object object]", "NaN", "true"}), rapid.String(),
		).Draw(rt, "value")
		if _, err := proto.ParseIdentity(s); gateway.PlainIdentity(s) && err != nil {
			rt.Fatalf("%q is called plain but %v", s, err)
		}
	})
	if !gateway.PlainIdentity("browser:3f0c9a") {
		t.Error("a usual identity is not plain")
	}
}

func TestPersonal(t *testing.T) {
	for s, want := range map[string]bool{
		"jo@example.com": true, "x jo.d+t@mail.example.co.uk.": true, "a%40b.org": true, "https://h/p?e=jo%40b.org&x": true,
		"": false, "@": false, "jo@": false, "@example.com": false, "jo@localhost": false, "https://t.co/@jo.doe": false, "a @ b.com": false, "v1@2.0": false, "100%40": false,
	} {
		if got := gateway.Personal(s); got != want {
			t.Errorf("Personal(%q) = %v", s, got)
		}
	}
}

func FuzzTimestamp(f *testing.F) {
	for _, s := range []string{"2026-11-22T12:00:00Z", "2026-11-22T12:00:00.123456789+05:30", "2024-02-29T23:59:59-00:01", "2023-02-29T00:00:00Z", "0000-01-01T00:00:00Z", "9999-12-31T23:59:59.9Z", "2026-11-22T12:00:60Z", "2026-11-22t12:00:00z", "2026-11-22T12:00:00,5Z", "1969-12-31T23:59:59.9999Z", "2026-11-22T12:00:00+24:00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, ok := gateway.ParseTimestamp(s)
		want, err := time.Parse(time.RFC3339, strings.ToUpper(s)) // which has the letters in capitals only
		if ok != (err == nil) || ok && got != proto.MillisOf(want) {
			t.Errorf("%q: %v %v, time.Parse says %v %v", s, got, ok, want, err)
		}
	})
}

func FuzzScanner(f *testing.F) {
	for _, s := range []string{`{"a":[1,2.5e-3,"x\u00e9\ud83d\ude00",null,true,false,{}],"b":{"c":[]}}`, `"\ud800"`, `-0.0`, `1e999`, `[1,]`, "\"\x7f\xff\"", `123456789012345678`, `0.1234567890123456`, " [ ] ", `"12345678\n"`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		err := gateway.SkipJSON(b)
		if valid := json.Valid(b); valid != (err == nil) && !(err != nil && strings.Contains(err.Error(), "deep")) {
			t.Fatalf("%q: valid %v, scanner %v", b, valid, err)
		}
		s, odd, err := gateway.ScanString(b)
		var want string
		if stdErr := json.Unmarshal(b, &want); bytes.HasPrefix(bytes.TrimLeft(b, " \t\r\n"), []byte{'"'}) {
			if (stdErr == nil) != (err == nil) {
				t.Fatalf("%q: encoding/json %v, scanner %v", b, stdErr, err)
			}
			clean := !strings.ContainsFunc(want, func(r rune) bool { return r < ' ' || r == 0x7f || r == utf8.RuneError })
			if err == nil && !odd && s != want {
				t.Fatalf("%q: %q, want %q", b, s, want)
			}
			if err == nil && odd && clean {
				t.Fatalf("%q is called odd", b)
			}
			if err == nil && !odd && !clean && !strings.ContainsRune(want, utf8.RuneError) {
				t.Fatalf("%q is not called odd", b)
			}
		}
		checkNumber(t, b)
	})
}

func checkNumber(t *testing.T, b []byte) {
	trimmed := bytes.TrimLeft(b, " \t\r\n")
	if len(trimmed) == 0 || trimmed[0] != '-' && (trimmed[0] < '0' || trimmed[0] > '9') {
		return
	}
	got, err := gateway.ScanNumber(b)
	var want float64
	stdErr := json.Unmarshal(b, &want)
	var outOfRange *json.UnmarshalTypeError
	switch {
	case errors.As(stdErr, &outOfRange):
		if err != nil || !math.IsInf(got, 0) {
			t.Fatalf("%q: %v %v, want infinity", b, got, err)
		}
	case (stdErr == nil) != (err == nil):
		t.Fatalf("%q: encoding/json %v, scanner %v", b, stdErr, err)
	case err == nil && math.Float64bits(got) != math.Float64bits(want):
		t.Fatalf("%q: %v, want %v", b, got, want)
	}
}

// FuzzParsePost compares the intake's parser with encoding/json: the same
// bodies are JSON, and what is taken has the values that it reads.
func FuzzParsePost(f *testing.F) {
	f.Add(bodyOf(`{"event":"page","time":"2026-11-22T11:00:00Z","id":"x","identities":["browser:x1","account:y1"],"props":{"a":"b","c":1.5,"d":true,"e":null},"url":"u","ref":"r"}`))
	f.Add([]byte(`{"events":[{"event":"p\u00e9","identities":["browser:b1"]}],"client":"demo"}`))
	f.Add(bodyOf(`{"event":"a","props":{"x":{}}}`))
	p := newParser()
	f.Fuzz(func(t *testing.T, b []byte) {
		err := p.Parse(b, nil)
		var std struct {
			Events []json.RawMessage `json:"events"`
		}
		if code := proto.CodeOf(err); code == proto.CodeClient || code == proto.CodeTooLarge {
			return
		}
		if err != nil {
			if json.Valid(b) && !strings.Contains(err.Error(), "must be") && !strings.Contains(err.Error(), "deep") && !strings.Contains(err.Error(), "once") && !strings.Contains(err.Error(), "no events") {
				t.Fatalf("%q is JSON but %v", b, err)
			}
			return
		}
		if e := json.Unmarshal(b, &std); e != nil {
			t.Fatalf("%q was taken but %v", b, e)
		}
		if !bytes.Contains(bytes.ToLower(b), []byte(`"events"`)) || bytes.Count(bytes.ToLower(b), []byte(`vents`)) > 1 {
			return // escaped or other spellings of the key, which encoding/json folds
		}
		if n := len(p.Indexes()) + len(p.Refused()); n != len(std.Events) {
			t.Fatalf("%q: %d events, encoding/json has %d", b, n, len(std.Events))
		}
		for i, e := range packed(t, p.Batch()) {
			comparePacked(t, e, std.Events[p.Indexes()[i]])
		}
	})
}

func comparePacked(t *testing.T, e proto.Event, raw json.RawMessage) {
	var std map[string]any
	if err := json.Unmarshal(raw, &std); err != nil {
		t.Fatal(err)
	}
	text := func(k string) string { s, _ := std[k].(string); return s }
	if e.Name != text("event") || e.ID != text("id") || e.URL != text("url") || e.Ref != text("ref") {
		t.Fatalf("%s was read as %+v", raw, e)
	}
	props, _ := std["props"].(map[string]any)
	for _, p := range e.Props {
		want := props[p.Key]
		var got any
		switch p.Value.Kind {
		case proto.TextValue:
			got = p.Value.Text
		case proto.NumberValue:
			got = p.Value.Number
		default:
			got = p.Value.Kind == proto.TrueValue
		}
		if got != want {
			t.Fatalf("%s: property %q is %v, want %v", raw, p.Key, got, want)
		}
	}
	ids, _ := std["identities"].([]any)
	for _, id := range e.Identities {
		found := false
		for _, have := range ids {
			found = found || have == string(id)
		}
		if !found {
			t.Fatalf("%s: identity %q", raw, id)
		}
	}
}

func FuzzParseLookup(f *testing.F) {
	f.Add([]byte(`{"identities":["browser:a","x"],"after":"0:1"}`))
	f.Add([]byte(`{"identities":["\u0062"],"client":"demo","z":[{}]}`))
	f.Add([]byte(`{"identities":["\b0\f\r\t"]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		ids, _, err := gateway.ParseLookup(b)
		if err != nil {
			return
		}
		var std map[string]any
		if e := json.Unmarshal(b, &std); e != nil {
			t.Fatalf("%q was taken but %v", b, e)
		}
		list, _ := std["identities"].([]any)
		if bytes.Count(b, []byte("dentities")) == 1 && len(list) != len(ids) {
			t.Fatalf("%q: %d identities, want %d", b, len(ids), len(list))
		}
		if !utf8.Valid(b) || bytes.Contains(b, []byte(`\u`)) || bytes.Count(b, []byte("dentities")) != 1 {
			return
		}
		for i := range ids {
			if list[i] != ids[i] {
				t.Fatalf("%q: %q, want %q", b, ids[i], list[i])
			}
		}
	})
}

// FuzzLegible: what is legible is UTF-8 without control characters.
func FuzzLegible(f *testing.F) {
	for _, s := range []string{"", "a~", "a\x1f", "a\x7f", "ä", "a\u0080", "\u009f", "a\u00a0", "ä\n", "\xff", "a\xc3", "\ufffd"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		want := utf8.ValidString(s)
		for _, r := range s {
			want = want && !unicode.IsControl(r)
		}
		if got := gateway.Legible(s); got != want {
			t.Errorf("%q: %t", s, got)
		}
	})
}

// FuzzUnescaped: a query's values are those of net/url.
func FuzzUnescaped(f *testing.F) {
	for _, s := range []string{"", "a", "a+b", "%", "a%2", "a%20", "%2520", "%c3%A4+%2b", "%zz", "a%2g", "%%20", "%+0", "a%"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		want, err := url.QueryUnescape(s)
		if got, ok := gateway.Unescaped(s); got != want || ok != (err == nil) {
			t.Errorf("%q: %q %t, want %q %v", s, got, ok, want, err)
		}
	})
}

func FuzzPixel(f *testing.F) {
	f.Add("client=demo&event=page&url=https%3A%2F%2Fx.de&p.section=auto&ref=")
	f.Add("client=demo&p.a=%00&p.=x&&=&%zz")
	f.Fuzz(func(t *testing.T, q string) {
		p := newParser()
		if err := p.ParsePixel(q); err != nil {
			return
		}
		for _, e := range packed(t, p.Batch()) {
			if !utf8.ValidString(e.URL) || strings.ContainsAny(e.Name+e.URL+e.Ref+e.ID, "\x00\r\n") || e.Name == "" {
				t.Fatalf("%q was taken as %+v", q, e)
			}
		}
	})
}

func FuzzAppendText(f *testing.F) {
	f.Add("a\"\\\x00<é\xff😀")
	f.Fuzz(func(t *testing.T, s string) {
		var got string
		if err := json.Unmarshal(gateway.AppendText(nil, s), &got); err != nil {
			t.Fatal(err)
		}
		if want := strings.ToValidUTF8(s, "\x00bad"); !strings.Contains(want, "\x00bad") && got != s {
			t.Fatalf("%q became %q", s, got)
		}
	})
}

// BenchmarkParsePost reads 200 usual events of about 200 bytes.
func BenchmarkParsePost(b *testing.B) {
	const events = 200
	var body bytes.Buffer
	body.WriteString(`{"client":"demo","events":[`)
	for i := range events {
		if i > 0 {
			body.WriteByte(',')
		}
		fmt.Fprintf(&body, `{"event":"page","time":"2026-11-22T11:59:%02d.123Z","identities":["browser:3f0c9a%026x"],"props":{"section":"auto","price":12.5,"n":%d},"url":"https://www.example.com/news/auto/%d"}`, i%60, i*7919, i, i)
	}
	body.WriteString(`]}`)
	p := newParser()
	b.ReportAllocs()
	b.SetBytes(int64(body.Len()))
	for b.Loop() {
		if err := p.Parse(body.Bytes(), &demo); err != nil || len(p.Indexes()) != events {
			b.Fatal(err, p.Refused())
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*events), "ns/event")
	b.ReportMetric(float64(body.Len())/events, "B/event")
}

// FuzzProtobuf compares the intake's reading of an encoded body, event by event, with that
// of the whole message.
func FuzzProtobuf(f *testing.F) {
	add := func(m gproto.Message) {
		b, err := gproto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	text := &pb.Value{Kind: &pb.Value_Text{Text: "auto"}}
	add(&pb.EventsRequest{Client: "demo", Events: []*pb.Event{
		{Event: "page", Id: "x", Url: "u", Ref: "r", Identities: []string{"browser:x1", "account:y1"}, Props: map[string]*pb.Value{"a": text, "b": {Kind: &pb.Value_Number{Number: 1.5}}}},
		{Event: "click", Identities: []string{"browser:x1"}, Lmt: true},
	}})
	add(&pb.EventsRequest{Client: "demo", Events: []*pb.Event{{}}})
	f.Add([]byte("\x0a\x04demo\x12\x02\x22\x00\x1b\x1c\x0a\x04demo"))
	f.Add([]byte("\x0a\x01\xff\x12\x03\x0a\x01\xff"))
	quick, whole := newParser(), newParser()
	f.Fuzz(func(t *testing.T, b []byte) {
		err := quick.ParseProtobuf(b, &demo)
		var x pb.EventsRequest
		bad := gproto.Unmarshal(b, &x)
		if slices.ContainsFunc(quick.Refused(), func(r gateway.Refusal) bool { return strings.Contains(r.Message, "at most") }) {
			return // counted, and not made
		}
		switch code := proto.CodeOf(err); {
		case code == proto.CodeTooLarge || code == proto.CodeClient:
			return
		case (err != nil) != (bad != nil):
			t.Fatalf("%q: %v, and whole %v", b, err, bad)
		case err != nil:
			return
		}
		whole.TakeProtobuf(x.Events, &demo)
		if d := cmp.Diff(whole.Refused(), quick.Refused()); d != "" {
			t.Fatalf("%q: %s", b, d)
		}
		if d := cmp.Diff(packed(t, whole.Batch()), packed(t, quick.Batch())); d != "" {
			t.Fatalf("%q: %s", b, d)
		}
	})
}
