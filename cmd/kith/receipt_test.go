package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"kith/internal/config"
	"kith/proto"
)

// signer is a node as far as receipts go. Cuts are final after some questions.
type signer struct {
	key     ed25519.PrivateKey
	check   proto.ReceiptCheck
	pending int
	asked   []url.Values
}

func newSigner(seed string) *signer {
	return &signer{
		key:   ed25519.NewKeyFromSeed([]byte(strings.Repeat(seed, ed25519.SeedSize))),
		check: proto.ReceiptCheck{Signature: true, Clean: true, LogClear: true, Places: []proto.ReceiptFind{{Place: "views"}}},
	}
}

func (s *signer) public() string { return hex.EncodeToString(s.key.Public().(ed25519.PublicKey)) }

func (s *signer) receipt(clearBy time.Time) proto.Receipt {
	r := proto.Receipt{Version: proto.ReceiptVersion, ID: "7", Node: "n1", Action: "optout", Time: clearBy.Add(-24 * time.Hour), LogClearBy: clearBy, PublicKey: s.public()}
	r.Signature = hex.EncodeToString(ed25519.Sign(s.key, r.SignedBytes()))
	return r
}

func (s *signer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var out any
	s.asked = append(s.asked, r.URL.Query())
	switch {
	case r.URL.Path == "/v1/receipts/key":
		out = receiptKey{s.public(), "ed25519"}
	case r.URL.Path == "/v1/receipts/verify":
		var asked struct{ Identity proto.Identity }
		_ = json.NewDecoder(r.Body).Decode(&asked)
		check := s.check
		if asked.Identity != "browser:a1" {
			check.Identity = nil
		}
		out = check
	case strings.HasPrefix(r.URL.Path, "/v1/optouts"), strings.HasPrefix(r.URL.Path, "/v1/identities/"):
		receipt := s.receipt(time.Now().Add(24 * time.Hour))
		x := proto.OptOutState{Identity: "browser:a1", OptedOut: true, Final: s.pending == 0, Status: "/v1/optouts/browser:a1", Receipt: &receipt}
		if client := r.URL.Query(); client.Has("client") {
			x.Status += "?" + client.Encode()
		}
		if !x.Final {
			x.Receipt = nil
			s.pending--
			w.WriteHeader(http.StatusAccepted)
		}
		out = x
	}
	_ = json.NewEncoder(w).Encode(out)
}

// command runs the program against service with standard input.
func command(t *testing.T, service, stdin string, args ...string) (code int, out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	env := map[string]string{"KITH_SERVICE": service, "KITH_KEY": "k"}
	code = run(t.Context(), args, strings.NewReader(stdin), &o, &e, func(name string) string { return env[name] })
	return code, o.String(), e.String()
}

func TestReceiptVerify(t *testing.T) {
	encode := func(r proto.Receipt) string {
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	soon := time.Now().UTC().Add(time.Hour)
	good, other := newSigner("a"), newSigner("b")
	receipt := encode(good.receipt(soon))
	changed := good.receipt(soon)
	changed.CopiesRetracted = 9
	claimed := other.receipt(soon)
	claimed.PublicKey = good.public() // the key of another, the signature of one's own
	clean := good.check
	found, unsaid, unclear, denied := clean, clean, clean, clean
	found.Clean, found.Places = false, []proto.ReceiptFind{{Place: "store", Found: 2}}
	unsaid.Places = []proto.ReceiptFind{{Place: "store", Found: 1}}
	unclear.LogClear = false
	denied.Signature = false
	yes, no := true, false
	his, others := clean, clean
	his.Identity, others.Identity = &yes, &no
	answer := `{"identity":"browser:a1","final":true,"receipt":` + receipt + `}`
	for _, tt := range []struct {
		name, receipt string
		check         proto.ReceiptCheck
		code          int
		want          string
		args          []string
	}{
		{"good", receipt, clean, 0, "signature: good", nil},
		{"in its answer", `{"final":true,"receipt":` + receipt + `}`, clean, 0, "views: 0 found", nil},
		{"alone", receipt, clean, 0, "identity: none stands beside", nil},
		{"in the identity's answer", answer, his, 0, `identity: it is of "browser:a1"`, nil},
		{"in another's answer", answer, others, 1, `the receipt is not of "browser:a1"`, nil},
		{"in an answer to an older node", answer, clean, 0, `of "browser:a1" was not checked`, nil},
		{"in an answer, offline", answer, others, 0, `of "browser:a1" was not checked`, []string{"--offline", "--public-key", good.public()}},
		{"as JSON", receipt, clean, 0, `"clean": true`, []string{"--json"}},
		{"with its key named", receipt, clean, 0, "signature: good", []string{"--public-key", strings.ToUpper(good.public())}},
		{"with another key named", receipt, clean, 1, "signature is bad", []string{"--public-key", other.public()}},
		{"another node's", encode(other.receipt(soon)), denied, 1, "signature is bad", nil},
		{"of a key that the node had before", encode(other.receipt(soon)), clean, 0, "signature: good", nil},
		{"changed", encode(changed), clean, 1, "signature is bad", nil},
		{"with a key that did not sign", encode(claimed), clean, 1, "signature is bad", nil},
		{"the node denies", receipt, denied, 1, "signature is bad", nil},
		{"something is left", receipt, found, 1, "2 traces were found", nil},
		{"something is left, unsaid", receipt, unsaid, 1, "1 traces were found", nil},
		{"the log is not clear yet", receipt, unclear, 0, "entries from before are kept until", nil},
		{"the log is not clear in time", encode(good.receipt(soon.Add(-2 * time.Hour))), unclear, 1, "kith erase --now", nil},
		{"no receipt", `{"final":false,"status":"/v1/optouts/x"}`, clean, 1, "no receipt in it yet", nil},
		{"no JSON", `browser:a1`, clean, 1, "not JSON", nil},
		{"too long", strings.Repeat(" ", receiptBytesMax) + receipt, clean, 1, "cannot read the receipt", nil},
		{"offline", receipt, denied, 0, "signature: good", []string{"--offline", "--public-key", good.public(), "--service", "127.0.0.1:1"}},
		{"offline, as JSON", receipt, denied, 0, "{\n  \"signature\": true\n}\n", []string{"--offline", "--public-key", good.public(), "--json"}},
		{"offline, changed", encode(changed), clean, 1, "signature is bad", []string{"--offline", "--public-key", good.public()}},
		{"offline, no key", receipt, clean, 2, "--public-key HEX", []string{"--offline"}},
		{"no hex", receipt, clean, 2, "64 hex digits", []string{"--public-key", "xyz"}},
	} {
		good.check = tt.check
		node := httptest.NewServer(good)
		code, out, errs := command(t, node.URL, tt.receipt, append([]string{"receipt", "verify", "-"}, tt.args...)...)
		node.Close()
		if code != tt.code || !strings.Contains(out+errs, tt.want) {
			t.Errorf("%s: exit code %d, want %d and %q\n%s%s", tt.name, code, tt.code, tt.want, out, errs)
		}
	}
}

// The identity beside a receipt is compared with it over a directory too.
func TestReceiptIdentityInData(t *testing.T) {
	data := t.TempDir() + "/data"
	n := startNode(t, data)
	state := n.kith(t, "optout", "browser:gone", "--wait", "--json")
	if code := n.stop(); code != 0 {
		t.Fatalf("the node ended with exit code %d", code)
	}
	for _, tt := range []struct {
		file, want string
		code       int
		args       []string
	}{
		{state, `identity: it is of "browser:gone"`, 0, nil},
		{strings.ReplaceAll(state, "browser:gone", "browser:other"), `the receipt is not of "browser:other"`, 1, nil},
		{strings.ReplaceAll(state, "optout\"", "erase\""), `"places": []`, 1, []string{"--json"}},
	} {
		code, out, errs := command(t, n.service, tt.file, append([]string{"receipt", "verify", "-", "--data", data}, tt.args...)...)
		if code != tt.code || !strings.Contains(out+errs, tt.want) {
			t.Errorf("exit code %d, want %d and %q\n%s%s", code, tt.code, tt.want, out, errs)
		}
	}
}

// What kith optout prints is what kith receipt verify reads.
func TestOptOutPrintsTheReceipt(t *testing.T) {
	s := newSigner("a")
	node := httptest.NewServer(s)
	defer node.Close()
	optOut, erase := []string{"optout", "browser:a1"}, []string{"identity", "erase", "browser:a1"}
	for _, tt := range []struct {
		name    string
		command []string
		pending int
		args    []string
		final   bool
	}{
		{"at once", optOut, 0, nil, true},
		{"with all of the answer", optOut, 0, []string{"--json"}, true},
		{"later", optOut, 2, []string{"--wait"}, true},
		{"an erasure, later, of a client that is named", erase, 2, []string{"--wait", "--client", "demo"}, true},
		{"not waited for", optOut, 1, nil, false},
	} {
		s.pending, s.asked = tt.pending, nil
		code, out, errs := command(t, node.URL, "", slices.Concat(tt.command, tt.args)...)
		for _, query := range s.asked {
			if client := query.Get("client"); client != "" && client != "demo" {
				t.Errorf("%s: client %q is named", tt.name, client)
			}
		}
		if code != 0 || strings.Contains(errs, "not final") == tt.final {
			t.Errorf("%s: exit code %d\n%s%s", tt.name, code, out, errs)
		}
		code, _, errs = command(t, node.URL, out, "receipt", "verify", "-")
		if (code == 0) != tt.final {
			t.Errorf("%s: verify has exit code %d: %s", tt.name, code, errs)
		}
	}
	if code, out, _ := command(t, node.URL, "", "receipt", "key"); code != 0 || strings.TrimSpace(out) != s.public() {
		t.Errorf("receipt key: %d %s", code, out)
	}
}

// What docs/api.md says of the signature is enough to check it: by the lines that
// stand there, and with nothing of this program's.
func TestReceiptByItsDocumentation(t *testing.T) {
	b, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	_, chapter, _ := strings.Cut(string(b), "#### Checking the signature\n")
	_, chapter, _ = strings.Cut(chapter, "```json\n")
	example, chapter, _ := strings.Cut(chapter, "\n```\n")
	_, chapter, _ = strings.Cut(chapter, "```\n")
	signed, chapter, _ := strings.Cut(chapter, "```\n")
	var names []string
	for line := range strings.Lines(strings.TrimPrefix(signed, "kith receipt\n")) {
		name, _, _ := strings.Cut(line, "=")
		names = append(names, name)
	}
	if _, list, _ := strings.Cut(chapter, `NAMES = """`); !strings.HasPrefix(strings.Join(strings.Fields(list), " "), strings.Join(names, " ")+`""".split()`) {
		t.Errorf("the names in Python are not those of the lines, %q", names)
	}
	lines := func(receipt map[string]json.RawMessage) string {
		b := "kith receipt\n"
		for _, name := range names {
			b += name + "=" + strings.Trim(string(receipt[name]), `"`) + "\n"
		}
		return b
	}
	check := func(what string, receipt map[string]json.RawMessage, key string) {
		public, err1 := hex.DecodeString(key)
		signature, err2 := hex.DecodeString(strings.Trim(string(receipt["signature"]), `"`))
		if err1 != nil || err2 != nil || len(public) != ed25519.PublicKeySize || !ed25519.Verify(public, []byte(lines(receipt)), signature) {
			t.Errorf("%s: the signature is not over\n%s", what, lines(receipt))
		}
	}
	var documented map[string]json.RawMessage
	if err := json.Unmarshal([]byte(example), &documented); err != nil {
		t.Fatal(err)
	}
	if got := lines(documented); got != signed {
		t.Errorf("the example is signed over\n%swant\n%s", got, signed)
	}
	check("the example", documented, strings.Trim(string(documented["public_key"]), `"`))

	n := startNode(t, t.TempDir())
	var key struct {
		PublicKey string `json:"public_key"`
	}
	if err := json.Unmarshal(n.tell(t, "", "GET", "/v1/receipts/key", nil), &key); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		what, method, path string
		body               any
		client             string
	}{
		{"an opt-out", "POST", "/v1/optouts", sent{"identity": "browser:a1"}, ""},
		{"one client's erasure", "DELETE", "/v1/identities/browser:a2", nil, `"demo"`},
	} {
		var answer struct {
			Receipt map[string]json.RawMessage `json:"receipt"`
		}
		if err := json.Unmarshal(n.tell(t, config.DevKey, x.method, x.path, x.body), &answer); err != nil {
			t.Fatal(err)
		}
		if got := string(answer.Receipt["client"]); got != x.client {
			t.Errorf("%s: the receipt's client is %q, want %q", x.what, got, x.client)
		}
		check(x.what, answer.Receipt, key.PublicKey)
	}
}
