package segments

import (
	"slices"

	"kith/proto"
)

// index finds the predicates that an event may satisfy without looking at the
// others. Each predicate is filed under a cover: keys of which at least one is
// in every event that satisfies it. A key is an attribute with a text, or an
// attribute that is there; what has no such cover is tried on every event.
type index struct {
	fields [attrProp]attrIndex // name, url, ref
	props  map[string]*attrIndex
	always []filed
}

type attrIndex struct {
	values map[string][]filed
	any    []filed
}

// filed is a predicate in one place of the index. Sure: being found there is
// enough, the predicate need not be tried.
type filed struct {
	p    *tracked
	sure bool
}

// coverKey is one key of a cover; any: whatever the value.
type coverKey struct {
	attr attr
	text string
	any  bool
}

func newIndex() index { return index{props: map[string]*attrIndex{}} }

// cover is the best cover of p, false if there is none. Fewest others under
// the same keys is best, so that rules that share a common part are filed
// under what tells them apart.
func (x *index) cover(p *pred) ([]coverKey, bool) {
	switch p.op {
	case predFalse:
		return nil, true
	case predAnd:
		return x.coverAnd(p)
	case predOr:
		return x.coverOr(p)
	case predTrue, predNot:
		return nil, false
	}
	if texts, ok := p.texts(); ok {
		keys := make([]coverKey, len(texts))
		for i, t := range texts {
			keys[i] = coverKey{attr: p.attr, text: t}
		}
		return keys, true
	}
	return []coverKey{{attr: p.attr, any: true}}, p.attr.kind == attrProp
}

func (x *index) coverAnd(p *pred) (best []coverKey, found bool) {
	least := 0
	for _, k := range p.kids {
		keys, ok := x.cover(k)
		if !ok {
			continue
		}
		if load := x.load(keys); !found || load < least {
			best, least, found = keys, load, true
		}
	}
	return best, found
}

func (x *index) coverOr(p *pred) ([]coverKey, bool) {
	var all []coverKey
	for _, k := range p.kids {
		keys, ok := x.cover(k)
		if !ok {
			return nil, false
		}
		for _, key := range keys {
			if !slices.Contains(all, key) {
				all = append(all, key)
			}
		}
	}
	return all, true
}

// load is how crowded the places of keys are. A prop is preferred to a field
// and a value to mere presence while both are empty.
func (x *index) load(keys []coverKey) int {
	sum := 0
	for _, key := range keys {
		a := x.at(key.attr)
		switch {
		case key.any && a != nil:
			sum += 16 * (len(a.any) + 8)
		case key.any:
			sum += 16 * 8
		case a != nil:
			sum += 16 * len(a.values[key.text])
		}
		if key.attr.kind != attrProp {
			sum++
		}
	}
	return sum
}

// texts are the texts that the value must be one of, if the leaf says so.
func (p *pred) texts() ([]string, bool) {
	if p.lower || p.op != predIn && (p.op != predCmp || p.cmp != cmpEq) {
		return nil, false
	}
	texts := make([]string, 0, len(p.lits))
	for _, l := range p.lits {
		if l.Kind == proto.NumberValue {
			return nil, false // "3" and "3.0" are both 3
		}
		if t := l.String(); !slices.Contains(texts, t) { // true and "true" are one
			texts = append(texts, t)
		}
	}
	return texts, true
}

func (x *index) at(a attr) *attrIndex {
	if a.kind != attrProp {
		return &x.fields[a.kind]
	}
	return x.props[a.key]
}

func (x *index) add(t *tracked) {
	keys, ok := x.cover(t.tree)
	t.keys, t.always = keys, !ok
	if !ok {
		x.always = append(x.always, filed{p: t, sure: t.tree.op == predTrue})
		return
	}
	_, sure := t.tree.texts()
	sure = sure && (t.tree.op == predCmp || t.tree.op == predIn)
	for _, key := range keys {
		a := x.at(key.attr)
		if a == nil {
			a = &attrIndex{}
			x.props[key.attr.key] = a
		}
		if key.any {
			a.any = append(a.any, filed{p: t, sure: t.tree.op == predHas})
			continue
		}
		if a.values == nil {
			a.values = map[string][]filed{}
		}
		a.values[key.text] = append(a.values[key.text], filed{p: t, sure: sure})
	}
}

func (x *index) remove(t *tracked) {
	if t.always {
		x.always = without(x.always, t)
	}
	for _, key := range t.keys {
		a := x.at(key.attr)
		if key.any {
			a.any = without(a.any, t)
		} else if rest := without(a.values[key.text], t); len(rest) > 0 {
			a.values[key.text] = rest
		} else {
			delete(a.values, key.text)
		}
		if key.attr.kind == attrProp && len(a.any) == 0 && len(a.values) == 0 {
			delete(x.props, key.attr.key)
		}
	}
}

func without(list []filed, t *tracked) []filed {
	return slices.DeleteFunc(list, func(f filed) bool { return f.p == t })
}

// find appends to ev.matched every predicate that e satisfies, each once.
func (x *index) find(ev *Evaluator, e *proto.EventBody) {
	ev.take(x.always, e)
	x.fields[attrName].find(ev, e, e.Name)
	x.fields[attrURL].find(ev, e, e.URL)
	x.fields[attrRef].find(ev, e, e.Ref)
	if len(x.props) == 0 {
		return
	}
	for i := range e.Props {
		if a := x.props[e.Props[i].Key]; a != nil {
			ev.take(a.any, e)
			if len(a.values) > 0 {
				ev.take(a.values[ev.scratch.text(e.Props[i].Value, false)], e)
			}
		}
	}
}

func (a *attrIndex) find(ev *Evaluator, e *proto.EventBody, text string) {
	if len(a.values) > 0 {
		ev.take(a.values[text], e)
	}
}
