package segments

import (
	"cmp"
	"iter"
	"math"
	"slices"
	"strconv"
	"strings"

	"kith/proto"
)

// Plain is all that a rule is read over, of one identity or of all identities
// of a user.
type Plain struct {
	History iter.Seq2[proto.Millis, *proto.EventBody] // in any order
	Traits  []proto.Prop                              // of a user there may be several of one key
	Member  func(proto.SegmentID) bool                // over the same history
	Devices int                                       // how many of the identities are browsers or devices
}

// Holds reads the rule plainly: what it says of x at the instant now. It keeps
// nothing and knows nothing of the evaluator, which must always agree with it.
func (x Plain) Holds(r *Rule, now proto.Millis) bool {
	return (&plain{Plain: x, now: now}).holds(r.root)
}

// Sure reports whether the evaluator is bound to agree with Holds. It keeps up to
// PairsMax events that wait for a pair of a sequence: where there are more, it
// may not know of one.
func (x Plain) Sure(r *Rule) bool { return !x.crowded(r.root) }

func (x Plain) crowded(n *node) bool {
	if n.op != nodeSequence {
		return slices.ContainsFunc(n.kids, x.crowded)
	}
	events := 0
	for _, e := range x.History {
		if plainMatches(n.pred, e) || plainMatches(n.then, e) {
			events++
		}
	}
	return events > PairsMax
}

// Holds is Plain.Holds for an identity that is no device.
func Holds(r *Rule, history iter.Seq2[proto.Millis, *proto.EventBody], traits []proto.Prop, member func(proto.SegmentID) bool, now proto.Millis) bool {
	return Plain{History: history, Traits: traits, Member: member}.Holds(r, now)
}

type plain struct {
	Plain
	now proto.Millis
}

func (x *plain) holds(n *node) bool {
	switch n.op {
	case nodeTrue:
		return true
	case nodeAnd:
		return !slices.ContainsFunc(n.kids, func(k *node) bool { return !x.holds(k) })
	case nodeOr:
		return slices.ContainsFunc(n.kids, x.holds)
	case nodeNot:
		return !x.holds(n.kids[0])
	case nodeMember:
		return x.Member(n.member)
	case nodeTrait:
		return slices.ContainsFunc(x.Traits, func(t proto.Prop) bool {
			return t.Key == n.pred.attr.key && plainLeaf(n.pred, t.Value)
		})
	case nodeDevices:
		return plainCompare(float64(x.Devices), n.cmp, float64(n.n))
	case nodeCount:
		return plainCompare(float64(len(x.times(n))), n.cmp, float64(n.n))
	case nodeDays:
		days := map[string]bool{}
		for _, t := range x.times(n) {
			days[t.Time().Format("2006-01-02")] = true
		}
		return plainCompare(float64(len(days)), n.cmp, float64(n.n))
	case nodeLastAt, nodeLastAgo, nodeFirstAt, nodeFirstAgo:
		return x.holdsTime(n)
	case nodeSum, nodeMin, nodeMax:
		return x.holdsAmount(n)
	case nodeDistinct:
		texts := map[string]bool{}
		for _, v := range x.valuesOf(n) {
			texts[v.String()] = true
		}
		return plainCompare(float64(len(texts)), n.cmp, float64(n.n))
	case nodeSequence:
		return x.holdsSequence(n)
	}
	return false
}

func (x *plain) holdsTime(n *node) bool {
	times := x.times(&node{pred: n.pred})
	if len(times) == 0 {
		return false
	}
	which, against := slices.Max(times), n.at
	if n.op == nodeFirstAt || n.op == nodeFirstAgo {
		which = slices.Min(times)
	}
	if n.op == nodeLastAgo || n.op == nodeFirstAgo {
		against = x.now - n.window
	}
	return plainCompare(float64(which), n.cmp, float64(against))
}

// holdsAmount is over the newest AmountsMax numbers, from the newest on.
func (x *plain) holdsAmount(n *node) bool {
	var list []plainAmount
	for t, v := range x.valuesOf(n) {
		if f, ok := plainNumber(v.String(), v); ok && f <= amountMax && f >= -amountMax {
			list = append(list, plainAmount{t, f})
		}
	}
	slices.SortFunc(list, plainAmount.newerFirst)
	list = list[:min(len(list), AmountsMax)]
	if len(list) == 0 {
		return n.op == nodeSum && plainCompare(0, n.cmp, n.amount)
	}
	sum, least, greatest := 0.0, list[0].amount, list[0].amount
	for _, x := range list {
		sum, least, greatest = sum+x.amount, min(least, x.amount), max(greatest, x.amount)
	}
	return plainCompare(map[nodeOp]float64{nodeSum: sum, nodeMin: least, nodeMax: greatest}[n.op], n.cmp, n.amount)
}

type plainAmount struct {
	at     proto.Millis
	amount float64
}

func (a plainAmount) newerFirst(b plainAmount) int {
	return cmp.Or(cmp.Compare(b.at, a.at), cmp.Compare(packAmount(b.amount), packAmount(a.amount)))
}

// holdsSequence looks for the first other event that follows each.
func (x *plain) holdsSequence(n *node) bool {
	type event struct {
		at proto.Millis
		i  int
	}
	var first, then []event
	i := 0
	for t, e := range x.History {
		i++
		if t > x.now || n.window != 0 && t <= x.now-n.window {
			continue
		}
		if plainMatches(n.pred, e) {
			first = append(first, event{t, i})
		}
		if plainMatches(n.then, e) {
			then = append(then, event{t, i})
		}
	}
	slices.SortFunc(then, func(a, b event) int { return cmp.Compare(a.at, b.at) })
	return slices.ContainsFunc(first, func(a event) bool {
		k, _ := slices.BinarySearchFunc(then, a.at, func(b event, t proto.Millis) int { return cmp.Compare(b.at, t) })
		if k < len(then) && then[k].i == a.i {
			k++
		}
		return k < len(then) && then[k].at-a.at <= n.within
	})
}

// valuesOf gives the property of the events of the window, as far as they have
// it.
func (x *plain) valuesOf(n *node) iter.Seq2[proto.Millis, proto.Value] {
	return func(yield func(proto.Millis, proto.Value) bool) {
		for t, e := range x.History {
			if t > x.now || n.window != 0 && t <= x.now-n.window || !plainMatches(n.pred, e) {
				continue
			}
			if v, ok := n.of.of(e); ok && !yield(t, v) {
				return
			}
		}
	}
}

// times lists when events of the window satisfied the predicate.
func (x *plain) times(n *node) []proto.Millis {
	var times []proto.Millis
	for t, e := range x.History {
		if t <= x.now && (n.window == 0 || t > x.now-n.window) && plainMatches(n.pred, e) {
			times = append(times, t)
		}
	}
	return times
}

func plainMatches(p *pred, e *proto.EventBody) bool {
	switch p.op {
	case predFalse:
		return false
	case predTrue:
		return true
	case predAnd, predOr:
		for _, k := range p.kids {
			if plainMatches(k, e) == (p.op == predOr) {
				return p.op == predOr
			}
		}
		return p.op == predAnd
	case predNot:
		return !plainMatches(p.kids[0], e)
	}
	switch p.attr.kind {
	case attrName:
		return plainLeaf(p, proto.TextOf(e.Name))
	case attrURL:
		return plainLeaf(p, proto.TextOf(e.URL))
	case attrRef:
		return plainLeaf(p, proto.TextOf(e.Ref))
	}
	v, ok := e.Prop(p.attr.key)
	return ok && plainLeaf(p, v)
}

func plainLeaf(p *pred, v proto.Value) bool {
	text := v.String()
	if p.lower {
		text = strings.Map(func(r rune) rune {
			if 'A' <= r && r <= 'Z' {
				return r + 32
			}
			return r
		}, text)
	}
	switch p.op {
	case predHas:
		return true
	case predPrefix:
		return strings.HasPrefix(text, p.lits[0].Text)
	case predSuffix:
		return strings.HasSuffix(text, p.lits[0].Text)
	case predContains:
		return strings.Contains(text, p.lits[0].Text)
	case predMatches:
		return p.matchesText(text)
	case predCmp:
		return plainLiteral(text, v, p.cmp, p.lits[0])
	}
	for _, l := range p.lits {
		if plainLiteral(text, v, cmpEq, l) {
			return true
		}
	}
	return false
}

func plainLiteral(text string, v proto.Value, op cmpOp, lit proto.Value) bool {
	switch lit.Kind {
	case proto.TextValue:
		return plainCompare(text, op, lit.Text)
	case proto.NumberValue:
		f, ok := plainNumber(text, v)
		return ok && plainCompare(f, op, lit.Number)
	}
	if text != "true" && text != "false" {
		return false
	}
	return plainCompare(text, op, lit.String())
}

func plainNumber(text string, v proto.Value) (float64, bool) {
	if v.Kind == proto.NumberValue {
		return v.Number, true
	}
	if len(text) > 64 || v.Kind != proto.TextValue || strings.Trim(text, "0123456789.+-eE") != "" {
		return 0, false
	}
	f, err := strconv.ParseFloat(text, 64)
	return f, err == nil && !math.IsInf(f, 0)
}

func plainCompare[T float64 | string](a T, op cmpOp, b T) bool {
	switch op {
	case cmpEq:
		return a == b
	case cmpNe:
		return a != b
	case cmpLt:
		return a < b
	case cmpLe:
		return a <= b
	case cmpGt:
		return a > b
	}
	return a >= b
}
