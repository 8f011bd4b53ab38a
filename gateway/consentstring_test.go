package gateway_test

import (
	"fmt"
	"strings"
	"testing"

	"kith/gateway"
)

// bitText writes bits, given as text with blanks, in web-safe base64.
func bitText(bits string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	bits = strings.ReplaceAll(bits, " ", "")
	for len(bits)%6 != 0 {
		bits += "0"
	}
	var out strings.Builder
	for ; bits != ""; bits = bits[6:] {
		n := 0
		for _, c := range bits[:6] {
			n = n*2 + int(c-'0')
		}
		out.WriteByte(alphabet[n])
	}
	return out.String()
}

// tcString is a TC string's core with the purposes and vendors that are
// consented to; vendors are bits as given, with legitimate interests and
// restrictions if they go so far, or none of each.
func tcString(version int, purposes []int, vendors string) string {
	p := []byte(strings.Repeat("0", 24))
	for _, n := range purposes {
		p[n-1] = '1'
	}
	if vendors == "" {
		vendors = strings.Repeat("0", 17)
	}
	vendors += strings.Repeat("0", 17+12) // no vendor with a legitimate interest, no restriction
	return bitText(fmt.Sprintf("%06b", version) + strings.Repeat("0", 146) + string(p) + strings.Repeat("0", 24+1+12) + vendors)
}

var (
	consented = tcString(2, []int{1, 2, 3, 4, 7, 10}, "")
	refused   = tcString(2, []int{1, 2, 4, 7, 10}, "")
)

func TestTCString(t *testing.T) {
	someVendors := fmt.Sprintf("%016b 0 0100010100", 10)                              // 2, 6 and 8
	ranges := fmt.Sprintf("%016b 1 %012b 0 %016b 1 %016b %016b", 900, 2, 7, 100, 200) // 7 and 100 to 200
	none := strings.Repeat("0", 17)
	restricted := func(purpose, kind, vendor int) string {
		return someVendors + none + fmt.Sprintf("%012b %06b %02b %012b 0 %016b", 1, purpose, kind, 1, vendor)
	}
	broken := fmt.Sprintf("%016b 1 %012b 0 %016b", 900, 4000, 7)                               // says 4000, has one
	const published = "COzTVhaOzTVhaGvAAAENAiCIAP_AAH_AAAAAAEEUACCKAAA"                        // all purposes; vendors 2, 6 and 8
	const ranged = "CPdBusAPdBusAAKAyAENBPCgAP_AAAAAAAYgG9NV_H__bX9v-_____9_L6v_vqA.disclosed" // all purposes; of vendors up to 890 some
	for _, tt := range []struct {
		name   string
		s      string
		vendor int
		want   bool
	}{
		{"consented", consented, 0, true},
		{"consented, more segments", consented + ".IDKQA.YAAA", 0, true},
		{"not to purpose 1", tcString(2, []int{2, 3, 4, 5, 6, 7, 8, 9, 10}, ""), 0, false},
		{"not to purpose 3", refused, 0, false},
		{"not to purpose 4", tcString(2, []int{1, 2, 3, 5, 6, 7, 8, 9, 10}, ""), 0, false},
		{"to none", tcString(2, nil, ""), 0, false},
		{"version 1", tcString(1, []int{1, 3, 4}, ""), 0, false},
		{"version 3", tcString(3, []int{1, 3, 4}, ""), 0, false},
		{"empty", "", 0, false},
		{"cut off", consented[:29], 0, false},
		{"cut off behind the purposes", consented[:30], 0, false},
		{"cut off before the restrictions", consented[:len(consented)-2], 0, false},
		{"cut off behind the purposes, a vendor", consented[:30], 2, false},
		{"another alphabet", consented[:20] + "+" + consented[21:27] + "/" + consented[28:], 0, false},
		{"words", "no consent at all, thank you very much indeed", 0, false},
		{"published", published, 0, true},
		{"published, vendor 2", published, 2, true},
		{"published, vendor 6", published, 6, true},
		{"published, vendor 8", published, 8, true},
		{"published, vendor 1", published, 1, false},
		{"published, vendor 7", published, 7, false},
		{"published, vendor 9", published, 9, false},
		{"published, vendor 65535", published, 65535, false},
		{"published, cut off in the vendors", ranged, 0, false},
		{"published, cut off in the vendors, a vendor", ranged, 1, false},
		{"published, none", "CPXxRfAPXxRfAAfKABENB-CgAAAAAAAAAAYgAAAAAAAA", 0, false},
		{"bits, vendor 8", tcString(2, []int{1, 3, 4}, someVendors), 8, true},
		{"bits, vendor 9", tcString(2, []int{1, 3, 4}, someVendors), 9, false},
		{"bits, vendor 11", tcString(2, []int{1, 3, 4}, someVendors), 11, false},
		{"ranges, single", tcString(2, []int{1, 3, 4}, ranges), 7, true},
		{"ranges, first", tcString(2, []int{1, 3, 4}, ranges), 100, true},
		{"ranges, last", tcString(2, []int{1, 3, 4}, ranges), 200, true},
		{"ranges, before", tcString(2, []int{1, 3, 4}, ranges), 99, false},
		{"ranges, behind", tcString(2, []int{1, 3, 4}, ranges), 201, false},
		{"ranges that are not there", tcString(2, []int{1, 3, 4}, broken), 8, false},
		{"restricted flatly", tcString(2, []int{1, 3, 4}, restricted(3, 0, 6)), 6, false},
		{"restricted to legitimate interest", tcString(2, []int{1, 3, 4}, restricted(4, 2, 6)), 6, false},
		{"restricted to consent", tcString(2, []int{1, 3, 4}, restricted(1, 1, 6)), 6, true},
		{"restricted for another purpose", tcString(2, []int{1, 3, 4}, restricted(2, 0, 6)), 6, true},
		{"restricted for another vendor", tcString(2, []int{1, 3, 4}, restricted(1, 0, 8)), 6, true},
		{"restrictions that are not there", tcString(2, []int{1, 3, 4}, someVendors+none+fmt.Sprintf("%012b", 4000)), 6, false},
		{"the vendor, not the purposes", tcString(2, []int{1}, someVendors), 8, false},
	} {
		if got := gateway.TCAllows(tt.s, tt.vendor); got != tt.want {
			t.Errorf("%s: %v for vendor %d", tt.name, got, tt.vendor)
		}
	}
}

// usSection is one of the United States: its notices, then its opt-outs.
func usSection(version, notices int, optOuts ...int) string {
	s := fmt.Sprintf("%06b", version) + strings.Repeat("01", notices)
	for _, o := range optOuts {
		s += fmt.Sprintf("%02b", o)
	}
	return bitText(s + strings.Repeat("0", 40))
}

func TestGPPString(t *testing.T) {
	const (
		national = "DBABLA~"       // header of section 7 alone
		both     = "DBACNYA~"      // of 2 and 6
		tc       = "CPXxRfAPXxRfA" // whatever
		gpcOn    = ".YAAA"         // 01 1
	)
	header := func(sections string) string { return bitText("000011 000001 " + sections) }
	for _, tt := range []struct {
		name, s, list string
		refused       bool
		tc            string
	}{
		{"published, not opted out", national + "BVVqAAAAAAA.QA", "", false, ""},
		{"published, in force", national + "BVVqAAAAAAA.QA", "7", false, ""},
		{"opted out of sale", national + usSection(1, 6, 1, 2, 2), "", true, ""},
		{"opted out of sharing", national + usSection(1, 6, 2, 1, 2), "", true, ""},
		{"opted out of targeted advertising", national + usSection(1, 6, 2, 2, 1), "7", true, ""},
		{"opted out, not in force", national + usSection(1, 6, 1, 1, 1), "-1", false, ""},
		{"opted out, not known what is in force, 0", national + usSection(1, 6, 1, 1, 1), "0", true, ""},
		{"not applicable", national + usSection(1, 6, 0, 0, 0), "7", false, ""},
		{"GPC", national + usSection(1, 6, 2, 2, 2) + gpcOn, "7", true, ""},
		{"version 2", national + usSection(2, 6, 2, 2, 2), "7", false, ""},
		{"a version to come", national + usSection(3, 6, 2, 2, 2), "7", true, ""},
		{"cut off", national + "BVV", "7", true, ""},
		{"another in force, not there", national + usSection(1, 6, 2, 2, 2), "8", true, ""},
		{"Canada in force, there", header("000000000001 0 00011") + "~" + tc, "5", true, ""},
		{"Canada there, nobody says in force", header("000000000001 0 00011") + "~" + tc, "", true, ""},
		{"Canada there, another in force", header("000000000010 0 00011 0 011") + "~" + tc + "~" + usSection(1, 6, 2, 2, 2), "7", false, ""},
		{"who vouches for it", header("000000000001 0 1011") + "~" + tc, "", false, ""},
		{"Maryland in force", header("000000000001 0 0010001 1") + "~" + tc, "24", true, ""},
		{"one beyond all in force", national + usSection(1, 6, 2, 2, 2), "7,99", true, ""},
		{"in force in words", national + usSection(1, 6, 2, 2, 2), "us", true, ""},
		{"TCF and US privacy", both + tc + "~1YNN", "", false, tc},
		{"TCF and US privacy, opted out", both + tc + "~1YYN", "", true, tc},
		{"TCF and US privacy, opted out, TCF in force", both + tc + "~1YYN", "2", false, tc},
		{"TCF in force, not there", national + usSection(1, 6, 2, 2, 2), "2,7", false, ""},
		{"California", header("000000000001 0 000011") + "~" + usSection(1, 3, 2, 2), "8", false, ""},
		{"California, sharing", header("000000000001 0 000011") + "~" + usSection(1, 3, 2, 1), "8", true, ""},
		{"Utah, four notices", header("000000000001 0 001011") + "~" + usSection(1, 4, 2, 1), "11", true, ""},
		{"Utah, in", header("000000000001 0 001011") + "~" + usSection(1, 4, 2, 2), "11", false, ""},
		{"Virginia to Connecticut as a range", header("000000000001 1 100011 0011") + strings.Repeat("~"+usSection(1, 3, 2, 2), 2) + "~" + usSection(1, 4, 2, 2) + "~" + usSection(1, 3, 2, 1), "12", true, ""},
		{"a range, others in force", header("000000000001 1 100011 0011") + strings.Repeat("~"+usSection(1, 3, 2, 2), 2) + "~" + usSection(1, 4, 2, 2) + "~" + usSection(1, 3, 2, 1), "9,10,11", false, ""},
		{"none", "DBAA", "", false, ""},
		{"none, but in force", "DBAA", "7", true, ""},
		{"fewer than the header says", both + tc, "", true, tc},
		{"no header", "~BVVqAAAAAAA", "", true, ""},
		{"a TC string", consented, "", true, ""},
		{"words", "opt me out", "", true, ""},
		{"another version", bitText("000011 000010 000000000000"), "", true, ""},
		{"thousands of sections", header("111111111111 1 0000000000000000011 0000000000000000011") + "~a~b", "", true, ""},
	} {
		got, refused := gateway.ReadGPP(tt.s, tt.list)
		if refused != tt.refused || !refused && got != tt.tc {
			t.Errorf("%s: refused %v, TCF %q", tt.name, refused, got)
		}
	}
}

func FuzzConsentStrings(f *testing.F) {
	f.Add(consented, "7,2", 7)
	f.Add("DBABLA~BVVqAAAAAAA.QA", "7", 0)
	f.Add("DBACNYA~CPXxRfAPXxRfAAfKABENB-CgAAAAAAAAAAYgAAAAAAAA~1YNN", "", 1)
	f.Fuzz(func(t *testing.T, s, list string, vendor int) {
		vendor &= 1<<16 - 1
		if gateway.TCAllows(s, vendor) && !gateway.TCAllows(s, 0) {
			t.Fatalf("%q allows vendor %d, but not its purposes", s, vendor)
		}
		if tc, _ := gateway.ReadGPP(s, list); tc != "" && !strings.Contains(s, "~"+tc) {
			t.Fatalf("%q: TCF section %q", s, tc)
		}
	})
}
