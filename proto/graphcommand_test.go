package proto_test

import (
	"encoding/binary"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"kith/proto"
)

func drawHash(t *rapid.T, name string) (h proto.IdentityHash) {
	copy(h[:], rapid.SliceOfN(rapid.Byte(), len(h), len(h)).Draw(t, name))
	return h
}

func TestGraphCommandsRoundTrip(t *testing.T) {
	name := rapid.StringN(1, 20, -1)
	rapid.Check(t, func(t *rapid.T) {
		client, space := proto.ClientID(rapid.Uint32().Draw(t, "client")), proto.SpaceID(rapid.Uint32().Draw(t, "space"))
		received, command := drawMillis(t, "received"), rapid.Uint64().Draw(t, "command")

		link := proto.LinkCommand{
			Client: client, Space: space, A: proto.Identity(name.Draw(t, "a")), B: proto.Identity(name.Draw(t, "b")), Received: received,
			Confidence: rapid.Uint16().Draw(t, "confidence"), Inferred: rapid.Bool().Draw(t, "inferred"), Command: command,
		}
		gotLink, err := proto.DecodeLink(link.Append(nil))
		must(t, err)
		same(t, link, gotLink)

		unlink := proto.UnlinkCommand{Client: client, Space: space, A: drawHash(t, "hash a"), B: drawHash(t, "hash b"), Received: received, AsOf: drawMillis(t, "as of")}
		gotUnlink, err := proto.DecodeUnlink(unlink.Append(nil))
		must(t, err)
		same(t, unlink, gotUnlink)

		kind := rapid.SampledFrom([]proto.CutKind{proto.CutOptOut, proto.CutErase, proto.CutForget}).Draw(t, "kind")
		cut := proto.CutCommand{Hash: drawHash(t, "hash"), Kind: kind, Everywhere: rapid.Bool().Draw(t, "everywhere"), Received: received, Command: command, Client: client, Space: space}
		gotCut, err := proto.DecodeCut(cut.Append(nil))
		must(t, err)
		same(t, cut, gotCut)

		optIn := proto.OptInCommand{Hash: cut.Hash, Gen: rapid.Uint32().Draw(t, "gen"), Received: received, Command: command}
		gotOptIn, err := proto.DecodeOptIn(optIn.Append(nil))
		must(t, err)
		same(t, optIn, gotOptIn)

		pack := proto.GraphPack{
			From: proto.LaneID(rapid.IntRange(0, proto.LanesMax-1).Draw(t, "from")), First: rapid.Uint64Min(1).Draw(t, "first"),
			Batches: rapid.SliceOfN(rapid.SliceOf(rapid.Byte()), 0, 5).Draw(t, "batches"),
		}
		gotPack, err := proto.DecodeGraphPack(pack.Append(nil))
		must(t, err)
		same(t, pack, gotPack)
	})
}

// No prefix of a command is one, and none has a byte too many.
func TestGraphCommandsRefuseCuts(t *testing.T) {
	for _, c := range commandBodies()[6:] {
		for n := range c.Body {
			if _, err := repack(proto.Command{Kind: c.Kind, Body: c.Body[:n]}); proto.CodeOf(err) != proto.CodeCorrupt {
				t.Errorf("kind %d: the first %d of %d bytes: %v", c.Kind, n, len(c.Body), err)
			}
		}
		if _, err := repack(proto.Command{Kind: c.Kind, Body: append(slices.Clone(c.Body), 0)}); proto.CodeOf(err) != proto.CodeCorrupt {
			t.Errorf("kind %d: a byte too many: %v", c.Kind, err)
		}
	}
}

// A number that its field cannot hold is refused: taken modulo something, it
// would be another client's, space's or tombstone's.
func TestGraphCommandsRefuseNumbers(t *testing.T) {
	const wide, wider = 1<<32 + 7, 1<<16 + 850
	number := func(b []byte, list ...uint64) []byte {
		for _, v := range list {
			b = binary.AppendUvarint(b, v)
		}
		return b
	}
	a, b := goldenHash(1), goldenHash(2)
	names := proto.AppendString(proto.AppendString(nil, "browser:a"), "browser:b")
	hashes := append(a[:], b[:]...)
	for _, c := range []struct {
		what string
		kind proto.CommandKind
		ok   bool
		body []byte
	}{
		{"link", proto.CommandLink, true, number(append(number(nil, 7, 1), names...), 2, 850, 1, 0)},
		{"link's client", proto.CommandLink, false, number(append(number(nil, wide, 1), names...), 2, 850, 1, 0)},
		{"link's space", proto.CommandLink, false, number(append(number(nil, 7, wide), names...), 2, 850, 1, 0)},
		{"link's confidence", proto.CommandLink, false, number(append(number(nil, 7, 1), names...), 2, wider, 1, 0)},
		{"link's flag", proto.CommandLink, false, number(append(number(nil, 7, 1), names...), 2, 850, 2, 0)},
		{"link without a name", proto.CommandLink, false, number(proto.AppendString(proto.AppendString(number(nil, 7, 1), "browser:a"), ""), 2, 850, 1, 0)},
		{"unlink", proto.CommandUnlink, true, number(append(number(nil, 7, 1), hashes...), 2)},
		{"unlink's client", proto.CommandUnlink, false, number(append(number(nil, wide, 1), hashes...), 2)},
		{"unlink's space", proto.CommandUnlink, false, number(append(number(nil, 7, wide), hashes...), 2)},
		{"cut", proto.CommandCut, true, number(a[:], 1, 0, 2, 99, 7, 1)},
		{"cut's kind", proto.CommandCut, false, number(a[:], 4, 0, 2, 99, 7, 1)},
		{"cut without a kind", proto.CommandCut, false, number(a[:], 0, 0, 2, 99, 7, 1)},
		{"cut's flag", proto.CommandCut, false, number(a[:], 1, 2, 2, 99, 7, 1)},
		{"cut's client", proto.CommandCut, false, number(a[:], 1, 0, 2, 99, wide, 1)},
		{"cut's space", proto.CommandCut, false, number(a[:], 1, 0, 2, 99, 7, wide)},
		{"opt-in", proto.CommandOptIn, true, number(a[:], 1, 2, 99)},
		{"opt-in's tombstone", proto.CommandOptIn, false, number(a[:], wide, 2, 99)},
		{"pack", proto.CommandGraph, true, number(nil, 63, 1, 0)},
		{"pack's lane", proto.CommandGraph, false, number(nil, 64, 1, 0)},
		{"pack's number", proto.CommandGraph, false, number(nil, 63, 0, 0)},
		{"pack's count", proto.CommandGraph, false, number(nil, 63, 1, 1<<40)},
	} {
		if _, err := repack(proto.Command{Kind: c.kind, Body: c.body}); (err == nil) != c.ok || err != nil && proto.CodeOf(err) != proto.CodeCorrupt {
			t.Errorf("%s: %v", c.what, err)
		}
	}
}

// A batch packs what the graph is asked for the home of the identity that it
// is asked about.
func TestBatchOfGraphCommands(t *testing.T) {
	h := proto.NewHasher([16]byte{7})
	link, unlink, cut, optIn := goldenLink(), goldenUnlink(), goldenCut(), goldenOptIn()
	var b proto.Batch
	b.AddLink(h, &link)
	b.AddUnlink(&unlink)
	b.AddCut(&cut)
	b.AddOptIn(&optIn)
	rest := b.Bytes()
	for i, want := range []proto.Command{
		{Kind: proto.CommandLink, Partition: h.Hash(link.A).Partition(), Body: link.Append(nil)},
		{Kind: proto.CommandUnlink, Partition: unlink.A.Partition(), Body: unlink.Append(nil)},
		{Kind: proto.CommandCut, Partition: cut.Hash.Partition(), Body: cut.Append(nil)},
		{Kind: proto.CommandOptIn, Partition: optIn.Hash.Partition(), Body: optIn.Append(nil)},
	} {
		c, more, err := proto.NextCommand(rest)
		if err != nil {
			t.Fatal(err)
		}
		rest = more
		same(t, want, c)
		if raw, p := b.Item(i); p != want.Partition || string(raw) != string(proto.AppendCommand(nil, want.Kind, want.Partition, want.Body)) {
			t.Errorf("item %d is %x for %v", i, raw, p)
		}
	}
	if len(rest) != 0 || b.Len() != 4 {
		t.Errorf("%d bytes are left of %d commands", len(rest), b.Len())
	}
}

// A command that is for a home does not come for the lane, nor one for the
// lane for a home.
func TestGraphCommandsPartitions(t *testing.T) {
	for _, c := range commandBodies()[6:] {
		p := proto.LanePartition
		if c.Partition == proto.LanePartition {
			p = 1
		}
		if _, _, err := proto.NextCommand(proto.AppendCommand(nil, c.Kind, p, c.Body)); proto.CodeOf(err) != proto.CodeCorrupt {
			t.Errorf("kind %d for partition %d: %v", c.Kind, p, err)
		}
	}
}
