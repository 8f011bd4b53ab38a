package gateway_test

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	"kith/gateway"
	"kith/proto"
)

// What the quick reading of a count's body takes, encoding/json takes, and as the
// same; and it takes what is common.
func FuzzCountBody(f *testing.F) {
	common := []string{
		`{"expr":"auto & !owners"}`, `{"expr":"a|b","unit":"users","client":"acme","after":"0:12"}`, ` { "unit" : "identities" , "expr" : "\u0061&\"b\"" } `,
		`{"expr":""}`, `{}`,
	}
	for _, body := range common {
		if _, _, taken, _ := gateway.CountBody([]byte(body)); !taken {
			f.Errorf("%s is not read quickly", body)
		}
		f.Add([]byte(body))
	}
	for _, body := range []string{
		`{"exprs":["a","b"]}`, `{"expr":null}`, `{"Expr":"a"}`, `{"expr":1}`, `{"expr":"a"}{}`, `{"expr":"a",}`, `["expr"]`, `{"what":"a"}`, "{\"expr\":\"\xff\"}", `{"expr":"\ud800"}`, `{"expr":"a","expr":"b"}`,
	} {
		if _, _, taken, _ := gateway.CountBody([]byte(body)); taken {
			f.Errorf("%s is read quickly", body)
		}
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		switch quick, strict, taken, err := gateway.CountBody(body); {
		case !taken:
		case err != nil:
			t.Errorf("%q is refused: %v", body, err)
		default:
			if a, b := encoded(t, quick), encoded(t, strict); !bytes.Equal(a, b) {
				t.Errorf("%q is read as %s and as %s", body, a, b)
			}
		}
	})
}

func encoded(t *testing.T, v any) []byte {
	t.Helper()
	b, err := gateway.EncodeValue(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestEncodeCount(t *testing.T) {
	if n := reflect.TypeFor[proto.Count]().NumField(); n != 6 {
		t.Errorf("a count has %d fields: is each written?", n)
	}
	some := uint64(1_234_567)
	for _, v := range []any{
		proto.Count{}, proto.Count{Count: &some, Exact: true, Partitions: proto.Answered{Answered: 64, Of: 64}},
		proto.Count{Below: 50, Partitions: proto.Answered{Answered: 63, Of: 64}},
		proto.Count{Count: &some, Rounded: 10, Day: "2026-11-28"}, proto.Counts{Counts: []proto.ExprCount{{Expr: "a", Count: &some}}},
	} {
		got, err := gateway.EncodeCount(v)
		if want := encoded(t, v); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s, %v is not %s", got, err, want)
		}
	}
}

// Expressions that are too long together are told so, where each alone is not.
func TestExpressionsAreTooLongTogether(t *testing.T) {
	r := newRig(t)
	long := strings.Repeat("x|", 20_000) + "x"
	w := r.serve("POST", "/v1/audiences/count", `{"exprs":["`+long+`","`+long+`"]}`, auth, key("acme-key"))
	if w.Code != 400 || code(w) != "expr" || !strings.Contains(w.Body.String(), "80002 bytes together") {
		t.Errorf("%d: %s", w.Code, w.Body)
	}
	w = r.serve("POST", "/v1/audiences/count", `{"expr":"`+long+"|"+long+`"}`, auth, key("acme-key"))
	if w.Code != 400 || !strings.Contains(w.Body.String(), "expr is over 65536 bytes") {
		t.Errorf("%d: %s", w.Code, w.Body)
	}
}
