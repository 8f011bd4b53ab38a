package engine

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"kith/actors"
	"kith/actors/identity"
	"kith/engine/store"
	"kith/proto"
)

// A stored dead letter is: time (8 bytes), kind, partition, length and reason,
// then the command's body. An event names only those identities whose home is the
// letter's lane, since a cut drops the letters of its own lane.

const deadReasonMax = 4096

// lettersMax bounds the letters of a lane. What is set aside while there are so many
// is counted and not kept: those that are there were the first, which tell what began
// it, and none goes that somebody may be about to replay.
const lettersMax = 4096

func encodeDead(at proto.Millis, p proto.PartitionID, d *actors.Dead) []byte {
	b := binary.BigEndian.AppendUint64(nil, uint64(at))
	b = append(b, byte(d.Kind), byte(p))
	b = proto.AppendString(b, d.Reason[:min(len(d.Reason), deadReasonMax)])
	return append(b, d.Body...)
}

type deadLetter struct {
	at        proto.Millis
	partition proto.PartitionID
	reason    string
	replay    proto.Replay
}

func decodeDead(key, value []byte) (deadLetter, error) {
	if len(key) != 15 || len(value) < 11 {
		return deadLetter{}, proto.Errorf(proto.CodeCorrupt, "a dead letter is malformed")
	}
	r := proto.NewReader(append([]byte(nil), value[10:]...))
	d := deadLetter{
		at: proto.Millis(binary.BigEndian.Uint64(value)), partition: proto.PartitionID(value[9]), reason: r.String(),
		replay: proto.Replay{
			Offset: proto.Offset(binary.BigEndian.Uint64(key[3:])), Index: int(binary.BigEndian.Uint32(key[11:])),
			Kind: proto.CommandKind(value[8]),
		},
	}
	d.replay.Body = r.Take(r.Len())
	if r.Bad() {
		return deadLetter{}, proto.Errorf(proto.CodeCorrupt, "a dead letter is malformed")
	}
	return d, nil
}

// DeadLetters are set-aside commands of all lanes, oldest first, at most limit.
func (n *Node) DeadLetters(_ context.Context, limit int) ([]proto.DeadLetter, error) {
	list := []proto.DeadLetter{}
	for _, l := range n.lanes {
		snap := l.acquire()
		found := 0
		prefix := laneKey(l.id, 'q')
		err := snap.Scan(prefix, prefix, func(k, v []byte) (bool, error) {
			d, err := decodeDead(k, v)
			if err != nil {
				return false, err
			}
			first, _, _ := strings.Cut(d.reason, "\n")
			list = append(list, proto.DeadLetter{
				ID: fmt.Sprintf("%d:%d:%d", l.id, d.replay.Offset, d.replay.Index), Lane: l.id,
				Offset: d.replay.Offset, Index: d.replay.Index, Time: d.at.Time(), Reason: first,
			})
			found++
			return found < limit, nil
		})
		snap.release()
		if err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(list, func(a, b proto.DeadLetter) int { return a.Time.Compare(b.Time) })
	return list[:min(len(list), limit)], nil
}

// Replay takes a dead letter in again, through the log; it leaves the list
// when it is applied, or comes back as a new one if it fails again.
func (n *Node) Replay(ctx context.Context, id string) error {
	lane, rest, ok1 := strings.Cut(id, ":")
	off, index, ok2 := strings.Cut(rest, ":")
	x, err1 := strconv.ParseUint(lane, 10, 8)
	o, err2 := strconv.ParseUint(off, 10, 64)
	i, err3 := strconv.ParseUint(index, 10, 31)
	if !ok1 || !ok2 || err1 != nil || err2 != nil || err3 != nil || int(x) >= len(n.lanes) {
		return proto.Errorf(proto.CodeInvalid, "dead letter id is not valid: take one from the list")
	}
	l := n.lanes[x]
	key := deadKey(l.id, proto.Offset(o), int(i))
	var d deadLetter
	snap := l.acquire()
	found, err := snap.Get(key, func(v []byte) (err error) {
		d, err = decodeDead(key, v)
		return err
	})
	snap.release()
	if err != nil {
		return err
	}
	if !found {
		return proto.Errorf(proto.CodeNotFound, "there is no dead letter %s", id)
	}
	var b proto.Batch
	b.AddRaw(proto.Command{Kind: proto.CommandReplay, Partition: d.partition, Body: d.replay.Append(nil)})
	if r := n.Submit(ctx, &b); r.Err != nil {
		return r.Err
	} else if err := n.reach(ctx, r.Position); err != nil {
		return err
	}
	return nil
}

// letterID names a dead letter of a lane.
type letterID struct {
	offset proto.Offset
	index  int
}

// letters are a lane's dead letters, with the identities that each names and
// whose it is: a cut takes those of its identity away, the end of a client its.
type letters struct {
	names   map[letterID][]proto.IdentityHash
	of      map[proto.IdentityHash][]letterID
	clients map[letterID]proto.ClientID
	ages    map[letterID]letterAge
}

// letterAge is when a letter's command came, and when the identity that it is of ends,
// if it does.
type letterAge struct{ received, ends proto.Millis }

func newLetterAge(received proto.Millis, id proto.Identity) letterAge {
	ends, _ := proto.Rotates(id)
	return letterAge{received, ends}
}

func newLetters() letters {
	return letters{map[letterID][]proto.IdentityHash{}, map[proto.IdentityHash][]letterID{}, map[letterID]proto.ClientID{}, map[letterID]letterAge{}}
}

// add notes a letter with its command.
func (x *letters) add(h proto.Hasher, id letterID, kind proto.CommandKind, body []byte) {
	var names []proto.IdentityHash
	switch kind {
	case proto.CommandEvent:
		var e proto.Event
		if proto.DecodeEvent(body, &e) == nil {
			for _, id := range e.Identities {
				names = append(names, h.Hash(id))
			}
			x.clients[id], x.ages[id] = e.Client, newLetterAge(e.Received, e.Identities[0])
		}
	case proto.CommandTraits:
		if t, err := proto.DecodeTraits(body); err == nil {
			names = append(names, h.Hash(t.Identity))
			x.clients[id], x.ages[id] = t.Client, newLetterAge(t.Received, t.Identity)
		}
	}
	x.names[id] = names
	for _, n := range names {
		x.of[n] = append(x.of[n], id)
	}
}

// remove reports whether there was the letter.
func (x *letters) remove(id letterID) bool {
	names, ok := x.names[id]
	delete(x.names, id)
	delete(x.clients, id)
	delete(x.ages, id)
	for _, n := range names {
		if x.of[n] = slices.DeleteFunc(x.of[n], func(other letterID) bool { return other == id }); len(x.of[n]) == 0 {
			delete(x.of, n)
		}
	}
	return ok
}

// old gives the letters that are too old at a time: an identity that is idle for idle
// (0: for ever) goes, as does one whose days are over.
func (x *letters) old(now, idle proto.Millis) (list []letterID) {
	for id, a := range x.ages {
		if a.ends != 0 && a.ends <= now || idle > 0 && a.received < now-idle {
			list = append(list, id)
		}
	}
	return list
}

// dropLetter deletes a letter and reports whether there was one.
func (l *lane) dropLetter(b *batch, id letterID) bool {
	if !l.letters.remove(id) {
		return false
	}
	b.deletes = append(b.deletes, deadKey(l.id, id.offset, id.index))
	return true
}

// letterChange is what a batch does to its lane's letters at one place of the log.
type letterChange struct {
	at        letterID // of a cut: behind all commands of its entry
	dead      *actors.Dead
	partition proto.PartitionID // dead's
	cut       proto.IdentityHash
	dark      bool           // the cut's identity is opted out from then on
	client    proto.ClientID // whose knowledge alone was cut; 0: everyone's
}

// changeLetters brings the lane's letters to where the batch has them, in the order
// of the log: which are kept does not depend on how batches are cut.
func (l *lane) changeLetters(b *batch) error {
	var list []letterChange
	for _, o := range b.outcomes {
		for i := range o.Dead {
			d := &o.Dead[i]
			list = append(list, letterChange{at: letterID{b.offsets[d.Entry], d.Index}, dead: d, partition: o.Partition})
		}
		for i := range o.Turned {
			list = append(list, letterChange{at: letterID{o.Turned[i].Offset, math.MaxInt}, cut: o.Turned[i].Hash, dark: o.Turned[i].Gen&1 == 1})
		}
		for _, f := range o.Forgotten {
			list = append(list, letterChange{at: letterID{f.Offset, math.MaxInt}, cut: f.Hash, client: f.Client})
		}
	}
	slices.SortStableFunc(list, func(x, y letterChange) int { // turns of an identity in one entry are in their order
		return cmp.Or(cmp.Compare(x.at.offset, y.at.offset), cmp.Compare(x.at.index, y.at.index))
	})
	turned := map[proto.IdentityHash]bool{} // whom the batch turned so far: whether they are opted out
	for _, x := range list {
		if x.dead != nil {
			if err := l.keepLetter(b, x, turned); err != nil {
				return err
			}
			continue
		}
		if x.client == 0 {
			turned[x.cut] = x.dark
		}
		l.dropLetters(b, x.cut, x.client)
	}
	for _, c := range b.ended {
		l.dropLettersOf(b, c)
	}
	l.lettersKept.Store(int64(len(l.letters.names)))
	return nil
}

// keepLetter makes a letter of a command that was set aside, if there is room.
func (l *lane) keepLetter(b *batch, x letterChange, turned map[proto.IdentityHash]bool) (err error) {
	if len(l.letters.names) >= lettersMax {
		b.unkept++
		return nil
	}
	dead := *x.dead
	dead.Body = namingOnly(dead.Kind, dead.Body, func(id proto.Identity) bool {
		h := l.node.hasher.Hash(id)
		if l.node.laneIDs[h.Partition()] != l.id {
			return false
		}
		dark, known := turned[h]
		if !known && err == nil {
			dark, err = l.optedOut(b, h)
		}
		return !dark
	})
	if err != nil {
		return err
	}
	l.letters.add(l.node.hasher, x.at, dead.Kind, dead.Body)
	value := encodeDead(b.times[dead.Entry], x.partition, &dead)
	b.puts = append(b.puts, put{deadKey(l.id, x.at.offset, x.at.index), value})
	return nil
}

// optedOut reports whether an identity of the lane was opted out before the batch.
func (l *lane) optedOut(b *batch, h proto.IdentityHash) (bool, error) {
	for _, f := range slices.Backward(l.flight) {
		if f.number >= b.number {
			continue
		}
		for _, o := range f.outcomes {
			for i := range slices.Backward(o.Turned) {
				if o.Turned[i].Hash == h { // an identity's are all of one outcome
					return o.Turned[i].Gen&1 == 1, nil
				}
			}
		}
	}
	var o identity.OptOut
	_, err := b.source.Get(optOutKey(h), o.Decode)
	return o.Dark(), err
}

// namingOnly is a command's body without the identities that are not to be named: a
// replay does not link an event to them. Ids that rotate are never linked.
func namingOnly(kind proto.CommandKind, body []byte, name func(proto.Identity) bool) []byte {
	var e proto.Event
	if kind != proto.CommandEvent || proto.DecodeEvent(body, &e) != nil {
		return body
	}
	linked := slices.DeleteFunc(e.Identities[1:], func(id proto.Identity) bool {
		_, rotates := proto.Rotates(id)
		return rotates || !name(id)
	})
	e.Identities = e.Identities[:1+len(linked)]
	return e.Append(nil)
}

// dropLetters deletes the letters that name an identity which was cut, or of them
// those of a client.
func (l *lane) dropLetters(b *batch, hash proto.IdentityHash, client proto.ClientID) {
	for _, id := range slices.Clone(l.letters.of[hash]) {
		if client == 0 || l.letters.clients[id] == client {
			l.dropLetter(b, id)
		}
	}
}

// dropLettersOf deletes the letters of a client that was ended.
func (l *lane) dropLettersOf(b *batch, client proto.ClientID) {
	for id, of := range l.letters.clients {
		if of == client {
			l.dropLetter(b, id)
		}
	}
}

// unwrapReplay gives the command inside a replay; its dead letter goes. A
// letter that has gone already is not taken in twice: ok is false.
func (l *lane) unwrapReplay(b *batch, c proto.Command) (inner proto.Command, ok bool, err error) {
	x, err := proto.DecodeReplay(c.Body)
	if err != nil {
		return c, false, err
	}
	if !l.dropLetter(b, letterID{x.Offset, x.Index}) {
		return c, false, nil
	}
	return proto.Command{Kind: x.Kind, Partition: c.Partition, Body: x.Body}, true, nil
}

// loadLetters reads which dead letters there are.
func (l *lane) loadLetters(snap store.Snapshot) error {
	l.letters = newLetters()
	err := l.readLetters(snap, &l.letters)
	l.lettersKept.Store(int64(len(l.letters.names)))
	return err
}

func (l *lane) readLetters(snap store.Snapshot, x *letters) error {
	prefix := laneKey(l.id, 'q')
	return snap.Scan(prefix, prefix, func(k, v []byte) (bool, error) {
		d, err := decodeDead(k, v)
		if err == nil {
			x.add(l.node.hasher, letterID{d.replay.Offset, d.replay.Index}, d.replay.Kind, d.replay.Body)
		}
		return true, err
	})
}
