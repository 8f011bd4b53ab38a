package gateway_test

import (
	"bufio"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"kith/gateway"
)

// personalCase is one line of testdata/personal.tsv.
type personalCase struct{ kind, secret, text string }

// readPersonal reads the corpus. Of the parts a third is held back: the detector
// was written by the others.
func readPersonal(t testing.TB) (seen, held []personalCase) {
	t.Helper()
	f, err := os.Open("testdata/personal.tsv")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "#") {
			continue
		}
		parts := strings.SplitN(lines.Text(), "\t", 3)
		c := personalCase{parts[0], parts[1], parts[2]}
		h := fnv.New32a()
		h.Write([]byte(c.text))
		if h.Sum32()%3 == 0 {
			held = append(held, c)
		} else {
			seen = append(seen, c)
		}
	}
	if len(seen) < 3000 || len(held) < 1000 {
		t.Fatalf("the corpus has %d and %d lines", len(seen), len(held))
	}
	return seen, held
}

func TestPersonalCorpus(t *testing.T) {
	seen, held := readPersonal(t)
	measurePersonal(t, "seen", seen, true)
	measurePersonal(t, "held back", held, os.Getenv("KITH_PERSONAL_HELD") != "")
}

// measurePersonal prints precision and recall, and wants what docs/personal-data.md
// promises.
func measurePersonal(t *testing.T, part string, cases []personalCase, show bool) {
	total, found := map[string]int{}, map[string]int{}
	wrong, hits := 0, 0
	for _, c := range cases {
		got := gateway.FindPersonal(c.text)
		total[c.kind]++
		switch {
		case c.kind == "-" && got != "none":
			wrong++
			if show {
				t.Logf("taken for %s: %s", got, c.text)
			}
		case c.kind != "-" && got == "none":
			if show {
				t.Logf("missed %s: %s", c.kind, c.text)
			}
		case c.kind != "-":
			found[c.kind]++
			hits++
		}
	}
	precision := float64(hits) / float64(hits+wrong)
	t.Logf("%s: precision %.4f (%d right, %d of %d wrong)", part, precision, hits, wrong, total["-"])
	if precision < 0.98 {
		t.Errorf("%s: precision %.4f, want 0.98", part, precision)
	}
	for _, kind := range []string{"email", "phone", "card", "bank", "national_id", "secret"} {
		recall := float64(found[kind]) / float64(total[kind])
		t.Logf("%s: %s: recall %.4f (%d of %d)", part, kind, recall, found[kind], total[kind])
		want := 0.95
		if kind == "email" || kind == "phone" || kind == "card" {
			want = 0.99
		}
		if recall < want {
			t.Errorf("%s: recall of %s is %.4f, want %.2f", part, kind, recall, want)
		}
	}
}

// One event's texts, as they come.
var personalTexts = []string{
	"page", "e-1732300000123-17", "browser:3f0c9a7be1d24c55a6f1b2c3d4e5f607",
	"https://www.example.com/auto/used/bmw-320d-touring-12345678.html?utm_source=news&utm_campaign=2026-11&page=2",
	"https://search.example/?q=bmw+320d+used", "section", "auto", "price", "12500.50", "author", "Desk, 12:30",
}

func TestPersonalAllocatesNothing(t *testing.T) {
	texts := append([]string{"https://x.example/?u=jo%40x.9&order=4111111111111112"}, personalTexts...)
	if n := testing.AllocsPerRun(100, func() {
		for _, s := range texts {
			if gateway.FindPersonal(s) != "none" {
				t.Fatal("found something in", s)
			}
		}
	}); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

func BenchmarkPersonal(b *testing.B) {
	size := 0
	for _, s := range personalTexts {
		size += len(s)
	}
	b.Run("find", func(b *testing.B) {
		b.SetBytes(int64(size))
		b.ReportAllocs()
		for b.Loop() {
			for _, s := range personalTexts {
				_ = gateway.FindPersonal(s)
			}
		}
	})
	b.Run("pass over the bytes", func(b *testing.B) {
		b.SetBytes(int64(size))
		var sum byte
		for b.Loop() {
			for _, s := range personalTexts {
				for i := range len(s) {
					sum += s[i]
				}
			}
		}
		_ = sum
	})
}

// realLog is a public web server's log (elastic/examples, Apache-2.0), outside of
// this repository.
const realLog = "../../shared/data/apache_combined_semicomplete_2015.log"

// Of a real site's addresses and referrers none may be taken for personal data but
// those of forums with a session in them.
func TestPersonalInRealLog(t *testing.T) {
	text, err := os.ReadFile(realLog)
	if err != nil {
		t.Skipf("the public log is not here: %v", err)
	}
	seen, sessions, found := map[string]bool{}, 0, 0
	for line := range strings.Lines(string(text)) {
		parts := strings.Split(line, `"`)
		if len(parts) < 4 {
			continue
		}
		request := strings.Fields(parts[1])
		for _, s := range []string{request[min(1, len(request)-1)], parts[3]} {
			if seen[s] {
				continue
			}
			seen[s] = true
			switch kind := gateway.FindPersonal(s); {
			case kind == "none":
			case kind == "secret" && strings.Contains(s, "sid="):
				sessions++
			default:
				found++
				t.Logf("%s: %s", kind, s)
			}
		}
	}
	t.Logf("%d of %d different addresses, and %d with a session", found, len(seen), sessions)
	if len(seen) < 1000 || found > 0 || sessions != 5 {
		t.Errorf("%d of %d addresses are taken for personal data, %d with a session: want 0 and 5", found, len(seen), sessions)
	}
}

func FuzzPersonal(f *testing.F) {
	for _, s := range append([]string{"%2B49 (0)30 1234567", "a%2540b.com", "GB29 NWBK 6016 1331 9268 19", "AB 12 34 56 C", "eyJ", "%", "(at)", "+1"}, personalTexts...) {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := gateway.FindPersonal(s)
		if mail := s + " jo@example.com"; gateway.FindPersonal(mail) == "none" {
			t.Errorf("%q hides an address behind it", s)
		}
		if again := gateway.FindPersonal(s); again != got {
			t.Errorf("%q is %s, then %s", s, got, again)
		}
	})
}

// TestUUIDsAreNobody: of random UUIDs, as devices are named by, none is taken for a
// number of somebody's; nor are numbered folders.
func TestUUIDsAreNobody(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	for range 200_000 {
		id := fmt.Sprintf("%08x-%04x-4%03x-%04x-%012x", r.Uint32(), r.Uint32N(1<<16), r.Uint32N(1<<12), 0x8000|r.Uint32N(1<<14), r.Uint64N(1<<48))
		for _, s := range []string{id, "aaid:" + id, "https://shop.example/o/" + id + "?id=" + id} {
			if kind := gateway.FindPersonal(s); kind != "none" {
				t.Fatalf("%s is taken for %s", s, kind)
			}
		}
	}
	for _, s := range []string{"f47ac10b-0583-4372-8567-a0b2c3d479ff", "/photos/012/345/678/large.jpg", "https://a.example/012/345678/x"} {
		if kind := gateway.FindPersonal(s); kind != "none" {
			t.Errorf("%s is taken for %s", s, kind)
		}
	}
	for _, s := range []string{"0171/1234567", "call 030/1234567"} {
		if kind := gateway.FindPersonal(s); kind != "phone" {
			t.Errorf("%s is taken for %s", s, kind)
		}
	}
}

// BenchmarkPersonalWorst: whatever a text is made of, the time for a byte stays
// about the same.
func BenchmarkPersonalWorst(b *testing.B) {
	for _, c := range []string{"=", "@", "://a:b@", "%40", "0-", "01 ", "0/1 234567 ", "eyJ", "a=b", strings.Repeat("eyJ", 300) + ".eyJ"} {
		for _, n := range []int{1 << 10, 1 << 14, 1 << 20} {
			s := strings.Repeat(c, n/len(c))
			b.Run(fmt.Sprintf("%q %d", c, n), func(b *testing.B) {
				b.SetBytes(int64(len(s)))
				for range b.N {
					gateway.FindPersonal(s)
				}
			})
		}
	}
}

// TestTokensAreBounded: a token is looked for so far and no farther, else a text of many
// beginnings takes the square of its length.
func TestTokensAreBounded(t *testing.T) {
	token := func(head, body int) string {
		return "eyJ" + strings.Repeat("a", head-3) + ".eyJ" + strings.Repeat("b", body-3) + ".c"
	}
	for s, want := range map[string]string{
		token(10, 5): "secret", token(1<<10, 16<<10): "secret", "x " + token(1<<10, 5): "secret",
		token(9, 5): "none", token(1<<10+1, 5): "none", token(10, 16<<10+1): "none", "eyJabcdefg.eyJ": "none", "eyJabcdefg.": "none",
	} {
		if got := gateway.FindPersonal(s); got != want {
			t.Errorf("%.20s… of %d bytes is %s, want %s", s, len(s), got, want)
		}
	}
}

// TestVeiledPersonal: what is encoded within what is encoded, or set with care.
func TestVeiledPersonal(t *testing.T) {
	for s, want := range map[string]string{
		"https://a.example/login?next=%2Freset%3Ftoken%3DabcDEF1234567890xyz":             "secret",
		"https://a.example/login?next=%252Freset%253Ftoken%253DabcDEF1234567890xyz%2526x": "secret",
		"https://a.example/?next=%2Fl%3Fpassword%3Dhunter22":                              "secret",
		"https://a.example/?r=https%3A%2F%2Fu%3Apw%40host%2Fl":                            "secret",
		"https://a.example/?user[password]=hunter22":                                      "secret",
		"https://a.example/?user%5Bpassword%5D=hunter22":                                  "secret",
		"https://a.example/?u=%2Fl%3Fphone%3D4915112345678":                               "phone",
		"jane%40%67mx.de":                                      "email",
		"%6a%61%6e%65%40%67%6d%78%2e%64%65":                    "email",
		"+49\u00a030\u00a01234567":                             "phone",
		"Tel.:\u00a0030\u202f1234567":                          "phone",
		"030\u20131234567":                                     "phone",
		"4111\u00a01111\u00a01111\u00a01111":                   "card",
		"DE89\u20093704\u20090044\u20090532\u20090130\u200900": "bank",
		"ja\u00adne@gm\u200bx.de":                              "email",
		strings.Repeat("x", 3000) + "a%2540b.de":               "email",

		"https://a.example/?ip=203.0.113.7&x":                                   "ip",
		"https://a.example/?u=%2Fl%3Fremote_addr%3D2001%253Adb8%253A%253A7":     "ip",
		"https://a.example/?ip=203.0.113.0&ip6=x":                               "none",
		"john\uff20example.com":                                                 "email", // wide
		"john\ufe6bexample.com":                                                 "email", // small
		"john@example\uff0ecom":                                                 "email",
		"\uff4a\uff4f@\uff47\uff4d\uff58\uff0e\uff44\uff45":                     "email",
		"https://a.example/?u=john%EF%BC%A0example.com":                         "email",
		"\u202ejohn\u2066@gm\ufeffx.de":                                         "email",
		"\u7528\u6237@\u4f8b\u5b50.\u4e2d\u56fd":                                "email", // a top level in another script
		"ivan@primer.\u0440\u0444":                                              "email",
		"john[at]example[dot]com":                                               "email",
		"john (at) example (dot) com":                                           "email",
		"jane(at)gmx(Punkt)de":                                                  "email",
		"\uff0b49\u300030\u30001234567":                                         "phone",
		"+\uff14\uff19 \uff13\uff10 \uff11\uff12\uff13\uff14\uff15\uff16\uff17": "phone",
		"\u0660\u0661\u0667\u0661/\u0661\u0662\u0663\u0664\u0665\u0666\u0667":   "phone", // Arabic
		"\u096f\u0967 +\u096f\u0967 98765 43210":                                "phone", // Devanagari
		"\U0001d7d2" + strings.Repeat("\U0001d7cf", 15):                         "card",  // mathematical bold
		strings.Repeat("\uff14", 1) + "111111111111111":                         "card",

		"\u770b@\u5f20\u4e09\u3002\u63a8\u8350":                     "none", // a mention and the end of a sentence
		"look @ this (dot) com":                                     "none",
		"\u6ce8\u6587\uff1a\uff11\uff12\uff13\uff14":                "none",
		"\u0e23\u0e32\u0e04\u0e32 \u0e51\u0e52\u0e53.\u0e54":        "none",
		"https://a.example/?next=%2Flist%3Fpage%3D2%26sort%3Dprice": "none",
		"100%25 of 20\u00a0% \u2013 café":                           "none",
		"%zz%4":                                                     "none",
	} {
		if got := gateway.FindPersonal(s); got != want {
			t.Errorf("%q: %s, want %s", s, got, want)
		}
	}
}

// TestPersonalBesideOthers: what is written right beside an address or a number, as a
// quote or a letter of a script without spaces, does not hide it.
func TestPersonalBesideOthers(t *testing.T) {
	for s, want := range map[string]string{
		"\u201cjohn@example.com\u201d":                                  "email",
		"\u201emax@example.de\u201c":                                    "email",
		"連絡先はtaro@example.comです":                                        "email",
		"メールはtaro@mail.example.co.jpまで。よろしく":                            "email",
		"john@example.com\u2026":                                        "email",
		"john@example.com\u2019s":                                       "email",
		"联系john@example.de。谢谢":                                          "email",
		"\u00abivan@primer.\u0440\u0444\u00bb":                          "email",
		"用户@例子.中国。":                                                     "email",
		"1984@bücher.de\u201d":                                          "email",
		"https://a.example/?q=max%40example.de%E2%80%9C":                "email",
		"https://a.example/?q=%E2%80%9Emax%40example%2Ede%E2%80%9C":     "email",
		"https://a.example/?q=taro%2540example.com%25E3%2581%25A7":      "email",
		"john@example.com-news":                                         "email",
		"john@example.com.Thanks":                                       "email",
		"john@mail.example.co.uk.Please call":                           "email",
		"jo@163.com.Thanks":                                             "email",
		"\u201c4111 1111 1111 1111\u201d":                               "card",
		"卡号4111111111111111。":                                           "card",
		"\u201c+49 30 1234567\u201d":                                    "phone",
		"\u00ab030 1234567\u00bb":                                       "phone",
		"電話030-1234-5678まで":                                             "phone",
		"电话+8613812345678":                                              "phone",
		"☎\ufe0f030 1234567":                                            "phone",
		"nº030 1234567":                                                 "phone",
		"โทรที่030 1234567":                                             "phone",
		"账号DE89370400440532013000。":                                     "bank",
		"\u201cDE89 3704 0044 0532 0130 00\u201d":                       "bank",
		"\u201cAB123456C\u201d":                                         "national_id",
		"https://a.example/?q=%E2%80%9C4111+1111+1111+1111%E2%80%9D":    "card",
		"https://a.example/?q=%E5%8D%A1%E5%8F%B74111111111111111%E3%80": "card",

		"@user@mastodon.socialです":                         "none",
		"\u201c@user@mastodon.social\u201d":               "none",
		"@test@mastodon.social-news":                      "none",
		"https://cdn.example.net/npm/react@18.2.0-next.5": "none",
		"https://cdn.example.net/npm/next@14.0.0.dev.1/x": "none",
		"/img/price@2x.png\u201d":                         "none",
		"wetter@next\u201d":                               "none",
		"treffen@8.30\u201310.15":                         "none",
		"a@b.c\u201d":                                     "none",
		"tom@p.inés.x1":                                   "none",
		"ä4111111111111111":                               "none",
		"4111111111111111é":                               "none",
		"e\u03014111111111111111":                         "none",
		"№12345678。":                                      "none",
		"订单4111111111111112号":                             "none",
		"https://a.example/?q=価格+20000000":                "none",
		"2026年11月29日12:30":                                "none",
	} {
		if got := gateway.FindPersonal(s); got != want {
			t.Errorf("%q: %s, want %s", s, got, want)
		}
	}
}

// TestNumbersBesideNumbers: a number is found where others stand beside it, and none is
// made of parts of dates, versions and lists.
func TestNumbersBesideNumbers(t *testing.T) {
	for s, want := range map[string]string{
		"4111 1111 1111 1111 12/27":             "card",
		"4111-1111-1111-1111 12/27 123":         "card",
		"4111111111111111 123":                  "card",
		"4111111111111111/12/27":                "card",
		"2 4111111111111111":                    "card",
		"2026-11-29 4111 1111 1111 1111":        "card",
		"4111 1111 1111 1111 5th":               "card",
		"/pay?card=4111+1111+1111+1111+12%2F27": "card",
		"+49 171 2345678 / +49 30 1234567":      "phone",
		"06 12 34 56 78 / 01 23 45 67 89":       "phone",
		"10115 030 1234567":                     "phone",
		"5 +49 30 1234567":                      "phone",
		"29.11.2026 0171 2345678":               "phone",
		"3 (415) 555-2671":                      "phone",
		"12345-12345-12345-12345 0171 2345678":  "phone",
		"1 123-45-6789":                         "national_id",

		"2026-11-29 12:30":                       "none",
		"2026-11-29 08.30.00 1234":               "none",
		"1.2.030.1234":                           "none",
		"/2026/11/29/1234567":                    "none",
		"/2026/11/030/1234567/":                  "none",
		"1 020 300 400":                          "none",
		"03 11 22 33 44 45":                      "none",
		"100 250 300 2500":                       "none",
		"52.5200 13.4050 48.1372 11.5755":        "none",
		"2026-11-29 4111 1111 1111 1112":         "none",
		"01 02 2026 03 04 2026":                  "none",
		"f47ac10b-0583-4372-8567-301234567890 5": "none",
		strings.Repeat("0 24 ", 100):             "none",
	} {
		if got := gateway.FindPersonal(s); got != want {
			t.Errorf("%q: %s, want %s", s, got, want)
		}
	}
}

// TestShortNumbers: the quick way over short numbers ends where the long one does,
// and passes over nothing that that finds.
func TestShortNumbers(t *testing.T) {
	const alphabet = "0123456789012345678901234567890123456789ab_- ./()+%2%20%2d%é"
	r := rand.New(rand.NewPCG(3, 4))
	short := 0
	for range 300_000 {
		b := make([]byte, 1+r.IntN(24))
		for i := range b {
			b[i] = alphabet[r.IntN(len(alphabet))]
		}
		b[0] = byte('0' + r.IntN(10))
		s := string(b)
		end := gateway.ShortNumber(s, 0)
		if end == 0 {
			continue
		}
		short++
		if personal, want := gateway.LongNumber(s, 0); personal || end != want {
			t.Fatalf("%q: the short way ends at %d, the long one at %d, %t", s, end, want, personal)
		}
	}
	if short < 10_000 {
		t.Errorf("only %d were short", short)
	}
}
