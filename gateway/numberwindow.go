package gateway

import "strings"

// numberGroupsMax is how many groups a number among others may have.
const numberGroupsMax = 7

// amid reports whether other numbers may stand beside one in x: there are enough
// digits, and what stands between them is not that of a date or a version only.
func (x *numeral) amid() bool {
	return x.parts > 1 && x.n > 8 && (x.seps[' '] || x.seps['/'] || x.seps['('] || x.seps[')'])
}

// numberAmid looks for a number among groups of digits that begin at i, as a card's
// is before its expiry, and gives the end of them all.
func numberAmid(s string, i int) (personalKind, int) {
	for {
		if kind := windowAt(s, i); kind != noPersonal {
			return kind, i
		}
		for apart := false; !apart; {
			end := digitsEnd(s, i)
			if i, apart = nextGroup(s, end); i == 0 {
				return noPersonal, wordEnd(s, end)
			}
		}
	}
}

// windowAt is what number begins at i, which is a group's beginning, and ends where
// other groups may stand behind it.
func windowAt(s string, i int) personalKind {
	for parts := 1; parts <= numberGroupsMax; parts++ {
		var x numeral
		end := x.read(s, i, parts)
		if x.parts < parts || x.n > numberDigitsMax || wordAt(s, end) {
			break
		}
		if _, apart := nextGroup(s, end); !apart || x.n < 8 {
			continue
		}
		x.before(s[:i])
		if kind := x.kind(s, i, end); kind != noPersonal && !(kind == personalPhone && x.listed(s, i, end)) && !inUUID(s, i, end) {
			return kind
		}
	}
	return noPersonal
}

// nextGroup is where the group of digits behind the one that ends at end begins, 0 if
// there is none, and whether a number may end between them: not where only a hyphen or
// a point is.
func nextGroup(s string, end int) (next int, apart bool) {
	for i := end; i < len(s) && i-end <= 9; {
		if digit(s[i]) {
			return i, apart
		}
		c, after := separator(s, i)
		if after == 0 {
			break
		}
		apart = apart || c != '-' && c != '.'
		i = after
	}
	return 0, true
}

func digitsEnd(s string, i int) int {
	for i < len(s) && digit(s[i]) {
		i++
	}
	return i
}

// listed reports whether the groups of s[start:end] are rather of a list of numbers, or
// of a large one, than a telephone number: the groups beside them are alike, or only
// spaces say that the three belong together.
func (x *numeral) listed(s string, start, end int) bool {
	if x.plus {
		return false
	}
	if x.northAmerican() {
		return !x.seps['-'] && !x.seps['.'] && !x.seps[')'] && !x.paren
	}
	g := x.groups[0]
	for _, n := range x.groups[:x.parts] {
		if n != g {
			return false
		}
	}
	next, _ := nextGroup(s, start+int(g))
	gap := s[start+int(g) : next]
	before, after := 0, 0
	if head, ok := strings.CutSuffix(s[:start], gap); ok {
		for before < len(head) && digit(head[len(head)-1-before]) {
			before++
		}
	}
	if tail, ok := strings.CutPrefix(s[end:], gap); ok {
		after = digitsEnd(tail, 0)
	}
	return before == int(g) || after == int(g) || g == 3 && before > 0 && before < 3
}
