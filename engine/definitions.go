package engine

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"kith/proto"
	"kith/proto/pb"
	"kith/segments"
)

// segmentsMax bounds the segments of one client. With segments.MemoryMax it keeps
// one identity's facts and user of one client below what the store takes as one value.
const segmentsMax = 20_000

// Define makes or replaces a segment and returns when all lanes obey it. One
// with backfill that replaces another answers once it is filled; what it gives
// then says so in Next. A definition like the newest changes nothing, and is waited
// for all the same.
func (n *Node) Define(ctx context.Context, client proto.ClientInfo, s proto.SegmentSpec) (proto.SegmentSpec, error) {
	return n.define(ctx, client, s, n.registry.checkImported)
}

// define is Define of what may be defined, which the registry's lock is held for.
func (n *Node) define(ctx context.Context, client proto.ClientInfo, s proto.SegmentSpec, may func(proto.ClientID, proto.SegmentID, *segments.Rule) error) (proto.SegmentSpec, error) {
	scope, rule, err := parseSpec(s)
	if err != nil {
		return s, err
	}
	compiled, err := rule.AppendBinary(nil)
	if err != nil {
		return s, err
	}
	s.Scope = scope.String()
	var there uint64 // the record of a definition like it
	seq, err := n.registry.proposeFor(ctx, client.ID, func() (*pb.Control, error) {
		if !n.registry.living(client) {
			return nil, errNoClient(client.Name)
		}
		old, ok := n.registry.specs[client.ID][s.ID]
		next, waits := n.registry.next[client.ID][s.ID]
		if waits {
			old = next
		}
		if ok && old.When == s.When && old.Scope == s.Scope && old.Backfill == s.Backfill {
			there = uint64(old.Version)
			return nil, nil
		}
		if err := n.mayDefine(client, segments.Definition{ID: s.ID, Scope: scope, Rule: rule}, s.Backfill, may); err != nil {
			return nil, err
		}
		return &pb.Control{Body: &pb.Control_Define{Define: &pb.Define{
			Client: uint32(client.ID), Id: string(s.ID), When: s.When, Compiled: compiled, Scope: s.Scope, Backfill: s.Backfill,
		}}}, nil
	})
	if err != nil {
		return s, err
	}
	if err := n.obeyed(ctx, cmp.Or(seq, there)); err != nil {
		return s, err
	}
	out, _ := n.Segment(client, s.ID)
	return out, nil
}

// mayDefine says whether d, which has no key yet, may be defined. It is called with the
// registry's lock held.
func (n *Node) mayDefine(client proto.ClientInfo, d segments.Definition, backfill bool, may func(proto.ClientID, proto.SegmentID, *segments.Rule) error) error {
	r := n.registry
	if err := may(client.ID, d.ID, d.Rule); err != nil {
		return err
	}
	all := len(r.specs[client.ID]) + len(r.next[client.ID])
	if _, ok := r.specs[client.ID][d.ID]; !ok {
		if err := n.roomForSegment(client); err != nil {
			return err
		}
		if all >= segmentsMax {
			return errManySegments(segmentsMax)
		}
	} else if _, waits := r.next[client.ID][d.ID]; all >= segmentsMax && backfill && !waits && !r.answersBy(client.ID, d) {
		return errManySegments(segmentsMax)
	}
	// The sequence of its own record is at least the next one.
	d.Key = proto.SegmentKey(r.seq + 1)
	return r.check(client.ID, d, backfill)
}

func errManySegments(most int) error {
	return proto.Errorf(proto.CodeTooLarge, "the client has %d segments, the most there may be: delete some", most)
}

// roomForSegment refuses one segment more than the client may have. It is called with
// the registry's lock held.
func (n *Node) roomForSegment(client proto.ClientInfo) error {
	most := segmentsMax
	if own := n.config.SegmentsMax[client.Name]; own > 0 {
		most = min(most, own)
	}
	if len(n.registry.specs[client.ID]) >= most {
		return errManySegments(most)
	}
	return nil
}

func parseSpec(s proto.SegmentSpec) (segments.Scope, *segments.Rule, error) {
	scope, err := segments.ParseScope(s.Scope)
	if err != nil {
		return 0, nil, err
	}
	rule, err := segments.Compile(s.When)
	return scope, rule, err
}

// RuleMentions implements gateway.Rules.
func (n *Node) RuleMentions(when string) ([]proto.RuleMention, error) {
	rule, err := segments.Compile(when)
	if err != nil {
		return nil, err
	}
	return rule.Mentions(), nil
}

// Undefine drops a segment and returns when all lanes obey it.
func (n *Node) Undefine(ctx context.Context, client proto.ClientInfo, id proto.SegmentID) error {
	return n.undefine(ctx, client, id, false)
}

// undefine is Undefine, for the import that is under way for the segment too.
func (n *Node) undefine(ctx context.Context, client proto.ClientInfo, id proto.SegmentID, byImport bool) error {
	seq, err := n.registry.propose(ctx, func() (*pb.Control, error) {
		if _, ok := n.registry.specs[client.ID][id]; !ok {
			return nil, proto.Errorf(proto.CodeNotFound, "segment %q is not defined", id)
		}
		if by := n.registry.referredBy(client.ID, id); by != "" {
			return nil, proto.Errorf(proto.CodeConflict, "segment %q is used by %q: change or delete that first", id, by)
		}
		if by := n.registry.savedWith(client.ID, func(x *savedAudience) bool { return slices.Contains(x.segments, id) }); by != "" {
			return nil, proto.Errorf(proto.CodeConflict, "segment %q is used by the saved audience @%s: change or delete that first", id, by)
		}
		if i := n.registry.imports(client.ID).underWay(id, false); i != nil && !byImport {
			return nil, proto.Errorf(proto.CodeConflict, "import %d of segment %q is under way: wait for it", i.Number, id)
		}
		return &pb.Control{Body: &pb.Control_Undefine{Undefine: &pb.Undefine{Client: uint32(client.ID), Id: string(id)}}}, nil
	})
	if err != nil {
		return err
	}
	return n.obeyed(ctx, seq)
}

// obeyed waits until every lane obeys the control stream up to seq.
func (n *Node) obeyed(ctx context.Context, seq uint64) error {
	for _, l := range n.lanes {
		if err := l.progress.wait(ctx, func(p *progress) bool { return p.control >= seq }); err != nil {
			return err
		}
	}
	return nil
}

// versionTries is how often an answer is made anew because a segment's version
// was replaced under it; after that it says that it is not exact.
const versionTries = 3

// Segment is a definition that answers, with its size, and what waits beside it.
func (n *Node) Segment(client proto.ClientInfo, id proto.SegmentID) (proto.SegmentSpec, bool) {
	for range versionTries {
		s, next, ok := n.registry.specWithNext(client.ID, id)
		if !ok {
			return s, false
		}
		n.measure(client.ID, &s)
		if s.Next = n.nextOf(client.ID, next); *s.Filled || n.registry.current().inForce(s.Version) {
			return s, true
		}
	}
	s, _, ok := n.registry.specWithNext(client.ID, id)
	return s, ok // without what changes under its measuring
}

// nextOf is a version that waits as the API gives it.
func (n *Node) nextOf(c proto.ClientID, s *proto.SegmentSpec) *proto.SegmentNext {
	if s == nil {
		return nil
	}
	return &proto.SegmentNext{Scope: s.Scope, When: s.When, Version: s.Version, Filled: n.filled(s.Version), Progress: n.fillShare(c, s.Version)}
}

// Segments are all of the client's definitions, by id.
func (n *Node) Segments(client proto.ClientInfo) []proto.SegmentSpec {
	list := n.registry.all(client.ID)
	for i := range list {
		if s, ok := n.Segment(client, list[i].ID); ok {
			list[i] = s
		}
	}
	return list
}

// measure fills in how many identities are in the segment, whether all of
// history has been gone through and, if not, how much of it.
func (n *Node) measure(c proto.ClientID, s *proto.SegmentSpec) {
	var size uint64
	for _, l := range n.lanes {
		size += l.bitmaps.Cardinality(s.Version)
	}
	filled := n.filled(s.Version) // afterwards: else a version that went would have lost members unnoticed
	if s.Size, s.Filled = &size, &filled; !filled {
		share := n.fillShare(c, s.Version)
		s.Progress = &share
	}
}

// Authenticate tells whom a key speaks for.
func (n *Node) Authenticate(key string) (proto.Principal, bool) { return n.registry.authenticate(key) }

// recheckEvery is how often connections to the embedded NATS are looked at when
// nothing changes.
const recheckEvery = time.Minute

// recheckKeys has connections to the embedded NATS end with the keys that opened
// them, until ctx ends: another client may take the name of one that ended.
func (n *Node) recheckKeys(ctx context.Context) {
	for n.recheck != nil && ctx.Err() == nil {
		changed := n.registry.nextRecord()
		n.recheck()
		select {
		case <-changed:
		case <-time.After(recheckEvery):
		case <-ctx.Done():
		}
	}
}

// Client finds a client by name.
func (n *Node) Client(name proto.ClientName) (proto.ClientInfo, bool) {
	c, ok := n.registry.current().clients[name]
	return c, ok
}

// Clients are all clients, by name.
func (n *Node) Clients() []proto.ClientInfo {
	return slices.SortedFunc(maps.Values(n.registry.current().clients), func(a, b proto.ClientInfo) int {
		return strings.Compare(string(a.Name), string(b.Name))
	})
}

// CreateKey makes a key for a client, and the client if it is new.
func (n *Node) CreateKey(ctx context.Context, name proto.ClientName, role proto.Role, space string) (string, error) {
	var raw [20]byte
	rand.Read(raw[:])
	key := "kith_" + strings.ToLower(base32.StdEncoding.EncodeToString(raw[:]))
	if err := n.ensureKey(ctx, name, role, space, sha256.Sum256([]byte(key)), key[:9]); err != nil {
		return key, err
	}
	return key, errors.Join(n.agreeRetention(ctx), n.agreeFeeds(ctx)) // the client may be new
}

// ensureKey makes the client and the key unless they exist. A key of another role or
// client becomes what is asked for, one that was revoked stays so.
func (n *Node) ensureKey(ctx context.Context, name proto.ClientName, role proto.Role, space string, sum [32]byte, note string) error {
	if role == proto.RoleAdmin {
		name = ""
	} else if err := n.ensureClient(ctx, name, space); err != nil {
		return err
	}
	seq, err := n.registry.propose(ctx, func() (*pb.Control, error) {
		if k, ok := n.registry.keys[sum]; ok && k.Role == role && k.Client == name || n.registry.closed(sum) {
			return nil, nil
		}
		if _, ok := n.registry.clients[name]; !ok && role != proto.RoleAdmin {
			return nil, errNoClient(name) // erased meanwhile: the key would open the next one of the name
		}
		return &pb.Control{Body: &pb.Control_Key{Key: &pb.Key{Sha256: sum[:], Client: string(name), Role: string(role), Note: note}}}, nil
	})
	if err != nil {
		return err
	}
	return n.obeyed(ctx, seq)
}

func (n *Node) ensureClient(ctx context.Context, name proto.ClientName, space string) error {
	if _, err := proto.ParseClientName(string(name)); err != nil {
		return err
	}
	if space != "" && !proto.ValidName(space) {
		return proto.Errorf(proto.CodeInvalid, "space %q is not valid: use 1 to 64 of A-Z a-z 0-9 _ - .", space)
	}
	_, err := n.registry.propose(ctx, func() (*pb.Control, error) {
		if c, ok := n.registry.clients[name]; ok {
			if space != "" && n.registry.spaces[space] != c.Space {
				return nil, proto.Errorf(proto.CodeConflict, "client %q exists in another space, which cannot be changed: leave --space out", name)
			}
			return nil, nil
		}
		return &pb.Control{Body: &pb.Control_Client{Client: &pb.Client{Name: string(name), Space: space}}}, nil
	})
	return err
}

// boot makes the clients and keys that the configuration wants, but for keys that were
// revoked, and revokes those that it says are.
func (n *Node) boot(ctx context.Context) error {
	for _, sum := range n.config.AdminKeys {
		if n.registry.isRevoked(sum) {
			n.warnRevoked(sum)
		}
	}
	for _, k := range n.config.Boot {
		if n.registry.isRevoked(k.SHA256) {
			n.warnRevoked(k.SHA256)
			continue
		}
		if err := n.ensureKey(ctx, k.Client, k.Role, "", k.SHA256, "boot"); err != nil {
			return err
		}
	}
	for _, sum := range n.config.RevokedKeys {
		if err := n.revokeKey(ctx, sum); err != nil {
			return err
		}
	}
	return errors.Join(n.agreeRetention(ctx), n.agreeFeeds(ctx))
}

func (n *Node) warnRevoked(sum [32]byte) {
	n.logger.Warn("a key of the configuration was revoked and opens nothing: take it out there, and make another (kith key create)", "key", proto.KeyID(sum))
}

// revokeKey ends a key for good, on all nodes: no record may tell of it, for another
// one's configuration may have it.
func (n *Node) revokeKey(ctx context.Context, sum [32]byte) error {
	_, err := n.registry.propose(ctx, func() (*pb.Control, error) {
		if n.registry.revoked[sum] {
			return nil, nil
		}
		return &pb.Control{Body: &pb.Control_RevokeKey{RevokeKey: &pb.RevokeKey{Sha256: sum[:]}}}, nil
	})
	return err
}
