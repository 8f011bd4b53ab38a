package ingest_test

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kith/internal/ingest"
	"kith/proto"
)

func TestCombined(t *testing.T) {
	const agent = `"Mozilla/5.0 (X11)"`
	tests := []struct{ name, line, want string }{
		{"page", `192.0.2.7 - - [17/May/2015:10:05:03 +0200] "GET /blog/geekery/?q=a&mail=me HTTP/1.1" 200 203023 "http://www.Example.com/search?q=secret#x" ` + agent,
			`{"event":"page","time":"2015-05-17T08:05:03Z","id":"","identities":["browser:"],"props":{"path":"/blog/geekery/","method":"GET","status":200,"bytes":203023},"url":"/blog/geekery/","ref":"http://www.Example.com/search?q=secret","user_agent":"Mozilla/5.0 (X11)"}`},
		{"e-mail in the referrer's query", `h - - [01/Jan/2020:00:00:00 +0000] "GET / HTTP/1.1" 200 1 "http://a.example/x?m=a%40b.example" ` + agent,
			`{"event":"page","time":"2020-01-01T00:00:00Z","id":"","identities":["browser:"],"props":{"path":"/","method":"GET","status":200,"bytes":1},"url":"/","ref":"http://a.example/x","user_agent":"Mozilla/5.0 (X11)"}`},
		{"home, no referrer, no bytes", `2001:db8::1 - bob smith [31/Dec/2015:23:59:60 +0000] "HEAD / HTTP/1.0" 304 - "-" ` + agent,
			`{"event":"page","time":"2016-01-01T00:00:00Z","id":"","identities":["browser:"],"props":{"path":"/","method":"HEAD","status":304,"bytes":0},"url":"/","user_agent":"Mozilla/5.0 (X11)"}`},
		{"escapes", `h - - [01/Jan/2020:00:00:00 +0000] "GET /a\"b\\c\xc3\xa9 HTTP/1.1" 404 1 "-" "Mozilla \"quoted\""`,
			`{"event":"page","time":"2020-01-01T00:00:00Z","id":"","identities":["browser:"],"props":{"path":"/a\u0022b\u005ccé","method":"GET","status":404,"bytes":1},"url":"/a\u0022b\u005ccé","user_agent":"Mozilla \u0022quoted\u0022"}`},
		{"robot", `h - - [01/Jan/2020:00:00:00 +0000] "GET / HTTP/1.1" 200 1 "-" "Googlebot/2.1"`,
			`{"event":"page","time":"2020-01-01T00:00:00Z","id":"","identities":["browser:"],"props":{"path":"/","method":"GET","status":200,"bytes":1},"url":"/","user_agent":"Googlebot/2.1"}`},
		{"password in referrer", `h - - [01/Jan/2020:00:00:00 +0000] "GET / HTTP/1.1" 200 1 "http://me:pw@a.example/x" ` + agent,
			`{"event":"page","time":"2020-01-01T00:00:00Z","id":"","identities":["browser:"],"props":{"path":"/","method":"GET","status":200,"bytes":1},"url":"/","ref":"http://a.example/x","user_agent":"Mozilla/5.0 (X11)"}`},
		{"no agent", `h - - [01/Jan/2020:00:00:00 +0000] "GET / HTTP/1.1" 200 1 "-" "-"`,
			`{"event":"page","time":"2020-01-01T00:00:00Z","id":"","identities":["browser:"],"props":{"path":"/","method":"GET","status":200,"bytes":1},"url":"/","user_agent":"-"}`},
		{"bytes in the agent that are no text", `h - - [01/Jan/2020:00:00:00 +0000] "GET / HTTP/1.1" 200 1 "-" "a\xffb"`,
			`{"event":"page","time":"2020-01-01T00:00:00Z","id":"","identities":["browser:"],"props":{"path":"/","method":"GET","status":200,"bytes":1},"url":"/","user_agent":"ab"}`},
	}
	d := ingest.NewDecoder(ingest.Options{Format: ingest.Combined})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, refusal := d.JSON([]byte(tt.line))
			if refusal != nil {
				t.Fatal(refusal)
			}
			if diff := cmp.Diff(tt.want, withoutVisitor(string(got))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// withoutVisitor cuts the hash out, which has a test of its own.
func withoutVisitor(s string) string {
	before, rest, _ := strings.Cut(s, `"browser:`)
	_, after, _ := strings.Cut(rest, `"`)
	return before + `"browser:"` + after
}

func TestVisitorIsAKeyedHash(t *testing.T) {
	line := func(host, agent string) []byte {
		return []byte(host + ` - - [01/Jan/2020:00:00:00 +0000] "GET / HTTP/1.1" 200 1 "-" "` + agent + `"`)
	}
	visitor := func(salt, host, agent string) string {
		d := ingest.NewDecoder(ingest.Options{Format: ingest.Combined, Salt: salt})
		b, err := d.JSON(line(host, agent))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, []byte(host)) {
			t.Errorf("the address is in %s", b)
		}
		var e sentEvent
		if err := json.Unmarshal(b, &e); err != nil {
			t.Fatal(err)
		}
		if _, err := proto.ParseIdentity(e.Identities[0]); err != nil {
			t.Error(err)
		}
		return e.Identities[0]
	}
	a := visitor("", "192.0.2.71", "A")
	seen := []string{a, visitor("", "192.0.2.72", "A"), visitor("", "192.0.2.71", "B"), visitor("other salt", "192.0.2.71", "A")}
	slices.Sort(seen)
	if len(slices.Compact(seen)) != 4 {
		t.Errorf("address, agent and salt must each tell visitors apart: %q", seen)
	}
	if want := "browser:810815e171f8634f8c7418540b1fad7b"; a != want {
		t.Errorf("visitor %q was %q: visitors of logs loaded before would come back as others", a, want)
	}
}

func TestCombinedRefuses(t *testing.T) {
	const good = `h - - [01/Jan/2020:00:00:00 +0000] "GET / HTTP/1.1" 200 1 "-" "Mozilla/5.0"`
	d := ingest.NewDecoder(ingest.Options{Format: ingest.Combined})
	if _, refusal := d.JSON([]byte(good)); refusal != nil {
		t.Fatalf("the line that the others are made from: %v", refusal)
	}
	replace := func(old, with string) string { return strings.Replace(good, old, with, 1) }
	tests := map[string]string{
		"no closing quote":   good[:len(good)-1],
		"trailing text":      good + " more",
		"text after quote":   replace(`HTTP/1.1"`, `HTTP/1.1"x`),
		"common format":      replace(` "-" "Mozilla/5.0"`, ""),
		"no host":            good[1:],
		"month":              replace("Jan", "Foo"),
		"day":                replace("01/Jan", "31/Feb"),
		"hour":               replace(":00:00:00", ":24:00:00"),
		"minute":             replace(":00:00:00", ":00:60:00"),
		"zone":               replace("+0000", "+00x0"),
		"status":             replace("200", "2x0"),
		"status range":       replace("200", "20"),
		"bytes":              replace(" 200 1", " 200 -1"),
		"tls on http":        replace("GET / HTTP/1.1", `\x16\x03\x01`),
		"no version":         replace("GET / HTTP/1.1", "GET /"),
		"empty request":      replace("GET / HTTP/1.1", "-"),
		"lower-case method":  replace("GET", "get"),
		"bad escape":         replace("GET /", `GET /\q`),
		"short escape":       replace("GET / HTTP/1.1", `GET / HTTP/1.1\x4`),
		"invalid utf-8":      replace("GET /", `GET /\xff`),
		"control in path":    replace("GET /", `GET /\x00`),
		"line break in path": replace("GET /", `GET /\n`),
		"virtual host":       "www.example.com:443 192.0.2.7 " + good[2:],
		"virtual host, name": "www.example.com visitor.example " + good[2:],
		"virtual host, user": "www.example.com 2001:db8::1 " + replace("- -", "- bob")[2:],
		"address as ident":   replace("h - -", "www.example.com 192.0.2.7 bob"),
		"json":               `{"event":"page"}`,
		"long garbage":       strings.Repeat("[", 5000),
	}
	for name, line := range tests {
		if got, refusal := d.JSON([]byte(line)); refusal == nil || refusal.Code != ingest.ReasonMalformed {
			t.Errorf("%s: got %s, %v; want malformed", name, got, refusal)
		}
	}
}

// The user agent goes along beside the properties, for the node to read.
func TestUserAgentIsNoProperty(t *testing.T) {
	const want = `{"event":"page","id":"","identities":["browser:a"],"user_agent":"Mozilla/5.0"}`
	d := ingest.NewDecoder(ingest.Options{Format: ingest.CSV})
	if _, refusal := d.JSON([]byte("event,identity,user_agent")); refusal == nil {
		t.Fatal("the header became an event")
	}
	if got, refusal := d.JSON([]byte("page,browser:a,Mozilla/5.0")); refusal != nil || string(got) != want {
		t.Errorf("csv: got %s, %v\nwant %s", got, refusal, want)
	}
	d = ingest.NewDecoder(ingest.Options{Format: ingest.NDJSON})
	if got, refusal := d.JSON([]byte(`{"event":"page","identities":["browser:a"],"user_agent":"Mozilla/5.0"}`)); refusal != nil || string(got) != want {
		t.Errorf("ndjson: got %s, %v\nwant %s", got, refusal, want)
	}
}

func TestCSV(t *testing.T) {
	d := ingest.NewDecoder(ingest.Options{Format: ingest.CSV})
	if _, refusal := d.JSON([]byte("event,time,identity,section,\"pri\"\"ce\",url,ref,id")); refusal == nil {
		t.Fatal("the header became an event")
	}
	got, refusal := d.JSON([]byte(`page,2026-11-22T09:30:00+01:00,browser:a|account:b,"cars, ""new""",12.5,/x,,e1`))
	want := `{"event":"page","time":"2026-11-22T08:30:00Z","id":"e1","identities":["browser:a","account:b"],"props":{"section":"cars, \u0022new\u0022","pri\u0022ce":"12.5"},"url":"/x"}`
	if refusal != nil || string(got) != want {
		t.Errorf("got %s, %v\nwant %s", got, refusal, want)
	}
	for line, code := range map[string]proto.Code{
		"page,yesterday,browser:a,,,,,": proto.CodeTime,
		"page,,browser:a":               ingest.ReasonMalformed,
		`page,"open,browser:a,,,,,`:     ingest.ReasonMalformed,
		"page,,browser:\xff,,,,,":       ingest.ReasonMalformed,
	} {
		if _, refusal := d.JSON([]byte(line)); refusal == nil || refusal.Code != code {
			t.Errorf("%q: %v, want %s", line, refusal, code)
		}
	}
}

// Spaces around the names of columns, as people write them, are no part of them.
func TestCSVHeaderWithSpaces(t *testing.T) {
	d := ingest.NewDecoder(ingest.Options{Format: ingest.CSV})
	if got, refusal := d.JSON([]byte("event, identity,\tsection , \" a\"\"")); refusal == nil || got != nil {
		t.Fatalf("a quote behind a space: %s, %v", got, refusal)
	}
	d = ingest.NewDecoder(ingest.Options{Format: ingest.CSV})
	if _, refusal := d.JSON([]byte("event, identity,\tsection ")); refusal == nil {
		t.Fatal("the header became an event")
	}
	got, refusal := d.JSON([]byte("page,browser:a,auto"))
	if want := `{"event":"page","id":"","identities":["browser:a"],"props":{"section":"auto"}}`; refusal != nil || string(got) != want {
		t.Errorf("got %s, %v\nwant %s", got, refusal, want)
	}
	d = ingest.NewDecoder(ingest.Options{Format: ingest.CSV})
	if _, refusal := d.JSON([]byte("event,section, section")); refusal == nil || !strings.Contains(refusal.Message, "twice") {
		t.Errorf("a column that is there twice but for a space: %v", refusal)
	}
}

func TestNDJSON(t *testing.T) {
	d := ingest.NewDecoder(ingest.Options{Format: ingest.NDJSON})
	got, refusal := d.JSON([]byte(` {"event":"buy","identities":["browser:a"],"props":{"price": 1.50,"x":null},"time":"2026-11-22T09:30:00.25Z","other":[1]} `))
	want := `{"event":"buy","time":"2026-11-22T09:30:00.25Z","id":"","identities":["browser:a"],"props":{"price": 1.50,"x":null}}`
	if refusal != nil || string(got) != want {
		t.Errorf("got %s, %v\nwant %s", got, refusal, want)
	}
	if got, refusal := d.JSON([]byte(`{"event":"a","props":{"x":"\"{[\\","y":"[{"}}`)); refusal != nil {
		t.Errorf("brackets in texts: got %s, %v", got, refusal)
	}
	// A line must not inherit anything from the line before.
	if got, _ := d.JSON([]byte(`{"event":"view"}`)); string(got) != `{"event":"view","id":"","identities":[]}` {
		t.Errorf("got %s", got)
	}
	for line, code := range map[string]proto.Code{
		`null`: ingest.ReasonMalformed, `[]`: ingest.ReasonMalformed, `{"event":1}`: ingest.ReasonMalformed, `{} {}`: ingest.ReasonMalformed,
		`{"event":"a","time":"now"}`: proto.CodeTime, `{"identities":"browser:a"}`: ingest.ReasonMalformed,
		`{"event":"a","props":{"x":{}}}`: proto.CodeEvent, `{"event":"a","props":{"x":"\"","y":[]}}`: proto.CodeEvent,
	} {
		if _, refusal := d.JSON([]byte(line)); refusal == nil || refusal.Code != code {
			t.Errorf("%q: %v, want %s", line, refusal, code)
		}
	}
}

// A list of identities that holds null must not be filled up from an earlier line,
// accepted or refused: that would make two people one.
func TestNullIsNoIdentity(t *testing.T) {
	d := ingest.NewDecoder(ingest.Options{Format: ingest.NDJSON})
	for _, before := range []string{`{"event":"login","identities":["browser:a1","account:b2c3"]}`, `{"event":"login","time":"now","identities":["browser:a1","account:b2c3"]}`} {
		for _, line := range []string{`{"event":"login","identities":["browser:d4",null]}`, `{"event":"page","identities":[null]}`} {
			_, _ = d.JSON([]byte(before))
			if got, refusal := d.JSON([]byte(line)); refusal == nil || refusal.Code != proto.CodeIdentity {
				t.Errorf("%s after %s: got %s, %v; want it refused", line, before, got, refusal)
			}
		}
	}
}

// What a device says of itself goes along in every format, in the spellings that the
// node takes; search terms too.
func TestLimitedTrackingGoesAlong(t *testing.T) {
	const limited = `{"event":"page","id":"","identities":["idfa:a"],"ref_query":"q=x","lmt":true}`
	const open = `{"event":"page","id":"","identities":["idfa:a"],"ref_query":"q=x"}`
	for lmt, want := range map[string]string{`true`: limited, `1`: limited, `"1"`: limited, `"true"`: limited, `{}`: limited, `false`: open, `0`: open, `null`: open} {
		d := ingest.NewDecoder(ingest.Options{Format: ingest.NDJSON})
		if got, refusal := d.JSON([]byte(`{"event":"page","identities":["idfa:a"],"ref_query":"q=x","lmt": ` + lmt + ` }`)); refusal != nil || string(got) != want {
			t.Errorf("lmt %s: got %s, %v", lmt, got, refusal)
		}
	}
	for lmt, want := range map[string]string{"true": limited, "1": limited, "yes": limited, "false": open, "FALSE": open, "no": open, "0.0": open, "0": open, "": open} {
		d := ingest.NewDecoder(ingest.Options{Format: ingest.CSV})
		_, _ = d.JSON([]byte("event,identity,ref_query,lmt"))
		if got, refusal := d.JSON([]byte("page,idfa:a,q=x," + lmt)); refusal != nil || string(got) != want {
			t.Errorf("column lmt %q: got %s, %v", lmt, got, refusal)
		}
	}
}

// What decoding JSON would turn into U+FFFD makes different identities one: it is
// refused, as over HTTP. In fields that are not kept it does no harm.
func TestNDJSONIsUTF8(t *testing.T) {
	d := ingest.NewDecoder(ingest.Options{Format: ingest.NDJSON})
	for _, bad := range []string{"M\xfcller", `\ud800`, `\udbff`, `\udc00`, `\ud800x`, `\ud800\\dc00`, `\ud800\ud800`} {
		for _, line := range []string{
			`{"event":"page","identities":["partner.crm:` + bad + `"]}`, `{"event":"` + bad + `"}`, `{"event":"page","url":"/` + bad + `"}`, `{"event":"page","props":{"a":"` + bad + `"}}`,
		} {
			if got, refusal := d.JSON([]byte(line)); refusal == nil || refusal.Code != ingest.ReasonMalformed {
				t.Errorf("%q: got %s, %v; want it refused", line, got, refusal)
			}
		}
		if _, refusal := d.JSON([]byte(`{"event":"page","other":"` + bad + `"}`)); refusal != nil {
			t.Errorf("%q where it is not kept: %v", bad, refusal)
		}
	}
	const want = `{"event":"page","id":"","identities":["partner.crm:M\u005cud800üller😀\ufffd"]}`
	got, refusal := d.JSON([]byte(`{"event":"page","identities":["partner.crm:M\\ud800\u00fcller\ud83d\ude00\ufffd"]}`))
	if refusal != nil || string(got) != strings.Replace(want, `\ufffd`, "\ufffd", 1) {
		t.Errorf("got %s, %v\nwant %s", got, refusal, want)
	}
}

// Names of fields are exact, as over HTTP.
func TestNDJSONNamesAreExact(t *testing.T) {
	d := ingest.NewDecoder(ingest.Options{Format: ingest.NDJSON})
	if got, refusal := d.JSON([]byte(`{"event":"page","EVENT":"x","Identities":["browser:a"],"ID":"x"}`)); refusal != nil || string(got) != `{"event":"page","id":"","identities":[]}` {
		t.Errorf("got %s, %v", got, refusal)
	}
}

// A field that is there twice is refused, as over HTTP: the last one must not win.
// Others may repeat, and what is in properties the node compares.
func TestNDJSONFieldsAreThereOnce(t *testing.T) {
	d := ingest.NewDecoder(ingest.Options{Format: ingest.NDJSON})
	for _, field := range []string{
		`"event":"x"`, `"time":"2026-11-22T09:30:00Z"`, `"id":"x"`, `"identities":["browser:b"]`, `"url":"/"`, `"ref":"/"`, `"ref_query":"q=x"`,
		`"user_agent":"x"`, `"props":{}`, `"lmt":true`, `"event":null`, `"\u0065vent":"x"`,
	} {
		name := strings.Trim(strings.Replace(strings.Split(field, ":")[0], `\u0065`, "e", 1), `"`)
		for _, line := range []string{`{"id":"a","time":null,"url":null,` + field + `,"event":"page","props":{"a":1},"o":[{"a":1,"b":2}],` + field + `}`, `{ ` + field + `, ` + field + ` }`} {
			if got, refusal := d.JSON([]byte(line)); refusal == nil || refusal.Code != proto.CodeEvent || !strings.Contains(refusal.Message, name) {
				t.Errorf("%s: got %s, %v; want it refused", line, got, refusal)
			}
		}
	}
	for _, line := range []string{
		`{"o":1,"event":"page","o":2,"p":[{"event":1,"event":2}],"q":"{,\",","\ud800":1,"\ud801":1}`, `{"event":"page","props":{"event":",","a":1}}`, `{ "event" : "page" }`, `{ }`,
	} {
		if _, refusal := d.JSON([]byte(line)); refusal != nil {
			t.Errorf("%s: %v", line, refusal)
		}
	}
}

// FuzzNDJSON decodes a line after another: it must be what it is alone.
func FuzzNDJSON(f *testing.F) {
	f.Add([]byte(`{"event":"a","id":"x","identities":["browser:a","account:b"],"props":{"p":1},"url":"/"}`), []byte(`{"identities":["browser:c",null]}`))
	f.Fuzz(func(t *testing.T, before, line []byte) {
		alone, aloneRefusal := ingest.NewDecoder(ingest.Options{Format: ingest.NDJSON}).JSON(line)
		d := ingest.NewDecoder(ingest.Options{Format: ingest.NDJSON})
		_, _ = d.JSON(before)
		after, afterRefusal := d.JSON(line)
		if !bytes.Equal(alone, after) || (aloneRefusal == nil) != (afterRefusal == nil) {
			t.Fatalf("alone %s, %v\nafter another %s, %v", alone, aloneRefusal, after, afterRefusal)
		}
	})
}

func TestLinesAreBounded(t *testing.T) {
	long := strings.Repeat("x", ingest.LineBytesMax)
	got, tooLong := ingest.Lines([]byte("a\r\n\n" + long + "\n" + long + "y\n" + long + long + long + "\nb"))
	if len(got) != 6 || tooLong != 2 || got[0] != "a" || got[1] != "" || got[2] != long || got[5] != "b" {
		t.Errorf("%d lines, %d too long; first %q, last %q", len(got), tooLong, got[0], got[len(got)-1])
	}
}

// FuzzCSV compares with the standard reader, which splits files, on one line.
func FuzzCSV(f *testing.F) {
	for _, s := range []string{`a,b`, `"a","b"`, `"a""b",`, `a"b`, `"a"b`, `"`, `,`, `"a`, `""`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		if strings.ContainsAny(line, "\r\n") || line == "" {
			t.Skip("not one line")
		}
		r := csv.NewReader(strings.NewReader(line))
		want, err := r.Read()
		got, ok := ingest.SplitCSV(line, nil)
		if ok != (err == nil) {
			t.Fatalf("%q: ok %v, encoding/csv says %v", line, ok, err)
		}
		if ok && !slices.Equal(got, want) {
			t.Fatalf("%q: %q, encoding/csv says %q", line, got, want)
		}
	})
}

// FuzzRun feeds any bytes in any format: every line must be counted once and
// what is sent must be JSON.
func FuzzRun(f *testing.F) {
	f.Add([]byte(`h - - [01/Jan/2020:00:00:00 +0000] "GET / HTTP/1.1" 200 1 "-" "Mozilla/5.0"`), uint8(0))
	f.Add([]byte(`h - - [01/Jan/2020:00:00:00 +0000] "GET /\xff\" HTTP/1.1" 200 1 "http://a@b/" "Mozi`), uint8(0))
	f.Add([]byte("event,identity,p\npage,browser:a,1\n\n\"\n"), uint8(1))
	f.Add([]byte(`{"event":"page","props":{"a":[1,2,{"b":null}]}}`+"\n{"), uint8(2))
	formats := []ingest.Format{ingest.Combined, ingest.CSV, ingest.NDJSON}
	f.Fuzz(func(t *testing.T, input []byte, format uint8) {
		if bytes.HasPrefix(input, []byte{0x1f, 0x8b}) {
			t.Skip("gzip")
		}
		src, err := ingest.OpenSource("-", bytes.NewReader(input), false)
		if err != nil {
			t.Fatal(err)
		}
		o := ingest.Options{Format: formats[format%3], Wait: noWait, BatchEventsMax: 3}
		r, err := ingest.Run(context.Background(), src, &acceptAll{t}, o)
		if err != nil && o.Format == ingest.CSV && strings.Contains(err.Error(), "the header") {
			return // no row can be read
		}
		if err != nil {
			t.Fatal(err)
		}
		want, _ := ingest.Lines(input)
		if r.Accepted+r.Refused != r.Lines || r.Unsent != 0 {
			t.Fatalf("accepted %d + refused %d, lines %d", r.Accepted, r.Refused, r.Lines)
		}
		if missing := int64(len(want)) - r.Lines; missing != 0 && (o.Format != ingest.CSV || missing != 1) {
			t.Fatalf("%d lines counted of %d", r.Lines, len(want))
		}
	})
}

type acceptAll struct{ t *testing.T }

func (a *acceptAll) Post(_ context.Context, body []byte) (ingest.Answer, error) {
	var in struct{ Events []json.RawMessage }
	if err := json.Unmarshal(body, &in); err != nil {
		a.t.Errorf("sent what is not JSON: %v\n%q", err, body)
	}
	return ingest.Answer{Accepted: len(in.Events)}, nil
}

func BenchmarkNDJSON(b *testing.B) {
	line := []byte(`{"event":"view","time":"2026-11-22T09:30:00.25Z","id":"a1","identities":["browser:b7d2c9aa","account:81c4"],"url":"https://shop.example/shoes/4711?colour=red","ref":"https://www.example.org/","props":{"price":59.9,"brand":"Acme","sale":true,"sizes":"41,42,43"},"session":"x1"}`)
	d := ingest.NewDecoder(ingest.Options{Format: ingest.NDJSON})
	b.SetBytes(int64(len(line)))
	for b.Loop() {
		if _, refusal := d.JSON(line); refusal != nil {
			b.Fatal(refusal)
		}
	}
}

func BenchmarkCombined(b *testing.B) {
	text, err := os.ReadFile(realLog)
	if err != nil {
		b.Skipf("the public log is not here: %v", err)
	}
	rows := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	d := ingest.NewDecoder(ingest.Options{Format: ingest.Combined})
	i := 0
	for b.Loop() {
		_, _ = d.JSON(rows[i%len(rows)])
		i++
	}
	b.ReportMetric(float64(i)/b.Elapsed().Seconds(), "lines/s")
}
