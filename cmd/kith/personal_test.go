package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"kith/internal/config"
	"kith/internal/porttest"
)

// personalText is a text of the gateway's corpus that holds personal data, and
// how the data is written in it.
type personalText struct{ kind, secret, text string }

func personalTexts(t *testing.T) (out []personalText) {
	t.Helper()
	f, err := os.Open("../../gateway/testdata/personal.tsv")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		p := strings.SplitN(lines.Text(), "\t", 3)
		if len(p) == 3 && p[0] != "-" {
			out = append(out, personalText{p[0], p[1], p[2]})
		}
	}
	return out
}

// asJSON is v as text.
func asJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// What comes in with personal data by any way is nowhere afterwards: in no file
// of the data directory, and not in the node's log or metrics.
func TestNoPersonalDataIsKept(t *testing.T) {
	texts := personalTexts(t)
	if len(texts) < 1000 {
		t.Fatalf("only %d texts", len(texts))
	}
	data, listen := t.TempDir(), porttest.Free(t)
	n := campaignNode(t, data, listen)
	send := func(method, address, body string) string {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, address, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(address, n.service) {
			r.Header.Set("Authorization", "Bearer "+config.DevKey)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode >= 500 {
			t.Fatalf("%s: %d %s", address, resp.StatusCode, b)
		}
		return string(b) + resp.Header.Get("X-Kith-Error")
	}

	// A thing that may be kept, by the same ways: without it the search below could
	// be in the wrong place.
	const kept = "k1ndly-kept-4711"
	send("POST", n.service+"/v1/events", `{"events":[{"event":"page","identities":["browser:`+kept+`"],"props":{"q":"`+kept+`"},"url":"https://x.example/`+kept+`"}]}`)

	bodies := func(field string) (out []string) {
		for from := 0; from < len(texts); from += 500 {
			var events []string
			for i, x := range texts[from:min(from+500, len(texts))] {
				e := map[string]any{"event": "page", "identities": []string{fmt.Sprint("browser:c", from+i)}}
				switch field {
				case "props":
					e["props"] = map[string]any{"note": x.text}
				case "identities":
					e["identities"] = []string{"browser:c1", "account:" + x.text}
				default:
					e[field] = x.text
				}
				events = append(events, asJSON(t, e))
			}
			out = append(out, strings.Join(events, ","))
		}
		return out
	}
	nc, err := nats.Connect("nats://"+listen, nats.Token(config.DevKey), nats.CustomInboxPrefix("_INBOX_demo"))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	for _, field := range []string{"url", "ref", "props", "id", "event", "identities"} {
		for _, events := range bodies(field) {
			send("POST", n.public+"/v1/events", `{"client":"demo","events":[`+events+`]}`)
			send("POST", n.service+"/v1/events", `{"events":[`+events+`]}`)
			m := nats.NewMsg("kith.in.demo")
			m.Header.Set("Authorization", "Bearer "+config.DevKey)
			m.Data = []byte(`{"events":[` + events + `]}`)
			if _, err := nc.RequestMsg(m, 10*time.Second); err != nil {
				t.Fatal(err)
			}
		}
	}
	refused := 0
	for i, x := range texts {
		q := url.QueryEscape(x.text)
		send("GET", n.public+"/v1/pixel.gif?client=demo&url="+q, "")
		send("GET", n.public+"/v1/pixel.gif?client=demo&p.note="+q, "")
		if i%4 != 0 {
			continue // the rest goes through what has been seen above
		}
		send("GET", n.public+"/v1/match?client=demo&partner=demo&uid="+q, "")
		send("POST", n.service+"/v1/links", `{"a":"browser:c1","b":`+asJSON(t, "account:"+x.text)+`}`)
		if got := send("PATCH", n.service+"/v1/identities/browser:c1/traits", `{"note":`+asJSON(t, x.text)+`}`); strings.Contains(got, `"pii"`) {
			refused++
		}
		send("PATCH", n.service+"/v1/identities/"+url.PathEscape("account:"+x.text)+"/traits", `{"age":3}`)
		send("POST", n.service+"/v1/traits", `{"rows":[{"identity":"account:t1","traits":{"note":`+asJSON(t, x.text)+`}},{"identity":`+asJSON(t, "account:"+x.text)+`,"traits":{"age":3}}]}`)
	}
	if refused < len(texts)/4*95/100 {
		t.Errorf("only %d of %d traits were refused as pii", refused, len(texts)/4)
	}
	metrics := send("GET", n.service+"/metrics", "")
	if !strings.Contains(metrics, `kith_gateway_personal_data_total{action="refused",kind="email"}`) || !strings.Contains(metrics, `kith_gateway_personal_data_total{action="cut",kind="secret"}`) {
		t.Error("the metrics do not count personal data")
	}
	nc.Close()
	if code := n.stop(); code != 0 {
		t.Fatalf("exit code %d", code)
	}

	var all bytes.Buffer
	all.WriteString(metrics)
	all.WriteString(n.log.String())
	err = filepath.WalkDir(data, func(path string, f fs.DirEntry, err error) error {
		if err != nil || f.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		all.Write(bytes.TrimRight(b, "\x00")) // files are made longer than they are yet
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(all.Bytes(), []byte(kept)) {
		t.Fatal("what may be kept is not found: the files are not searched as they should be")
	}
	missed := map[string]int{}
	for _, x := range texts {
		if bytes.Contains(all.Bytes(), []byte(x.secret)) {
			missed[x.kind]++
			t.Logf("kept: %s: %s", x.kind, x.text)
		}
	}
	for kind, n := range missed {
		t.Errorf("%d texts with %s are kept", n, kind)
	}
}
