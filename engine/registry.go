package engine

import (
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"kith/engine/log"
	"kith/proto"
	"kith/proto/pb"
	"kith/segments"
)

// registry is what the control stream says: clients, keys and definitions, in
// the order in which it says it. Lanes do not obey it but their own logs; it
// decides what may be written next, names segments in answers, and feeds the
// relays.
type registry struct {
	control log.ControlStream
	now     func() time.Time
	logger  *slog.Logger
	turn    chan struct{}                // one slot: held by who writes a record
	static  map[[32]byte]proto.Principal // from the configuration, as is the next
	refused map[[32]byte]bool            // keys that open nothing, whatever records say

	mu      sync.Mutex
	seq     uint64
	fault   error
	changed chan struct{} // closed and replaced at every record
	records [][]byte      // all of them; [i] has sequence i+1
	clients map[proto.ClientName]proto.ClientInfo
	gone    map[proto.ClientName]proto.ClientID // the last of the name that was ended
	spaces  map[string]proto.SpaceID
	keys    map[[32]byte]proto.Principal
	revoked map[[32]byte]bool
	specs   specs // those that answer
	next    specs // those that wait
	rules   *laneRules
	saved   map[proto.ClientID]map[proto.AudienceID]*savedAudience
	reports map[proto.ClientID]*segments.ReportBook
	told    map[proto.ClientID]*campaignBook
	books   map[proto.ClientID]*importBook
	went    uint64                                // the newest record by which an import went on, from its commit to the sweep
	since   map[proto.SegmentKey]proto.SegmentKey // versions whose rule refers to one that was swapped: by which record
	owners  map[proto.LaneID]string               // of lanes, that were named by hand
	size    controlSize
	limits  map[proto.ClientID]*rate.Limiter      // of what clients' own keys write
	ever    map[defined][]version                 // all that a segment's name has stood for, oldest first
	handed  map[defined][]handed                  // versions whose place another took by a Swap, oldest first
	ready   map[proto.SegmentKey]proto.SegmentKey // versions that wait of which this node has all members in all its lanes: as of since
	obeyed  func() uint64                         // the control record that every lane has obeyed; nil before there are lanes

	stale atomic.Bool // view must be made anew; set under mu
	view  atomic.Pointer[registryView]
}

// specs are segments as the API has them.
type specs map[proto.ClientID]map[proto.SegmentID]proto.SegmentSpec

func (x specs) set(c proto.ClientID, s proto.SegmentSpec) {
	if x[c] == nil {
		x[c] = map[proto.SegmentID]proto.SegmentSpec{}
	}
	x[c][s.ID] = s
}

// registryView is what hot paths read; it is never changed.
type registryView struct {
	clients map[proto.ClientName]proto.ClientInfo
	keys    map[[32]byte]proto.Principal
	names   []proto.SegmentID // by segment key; empty: does not answer
	users   []bool            // by segment key: of scope user
	handed  map[proto.SegmentKey]handed
	swapped uint64 // the newest Swap of handed
}

// inForce reports whether the version with the key is one that answers.
func (v *registryView) inForce(k proto.SegmentKey) bool {
	return int(k) < len(v.names) && v.names[k] != ""
}

func newRegistry(c log.ControlStream, static map[[32]byte]proto.Principal, refused map[[32]byte]bool, now func() time.Time, logger *slog.Logger) *registry {
	r := &registry{
		control: c, now: now, logger: logger, static: static, refused: refused, turn: make(chan struct{}, 1), changed: make(chan struct{}),
		clients: map[proto.ClientName]proto.ClientInfo{}, gone: map[proto.ClientName]proto.ClientID{}, spaces: map[string]proto.SpaceID{},
		keys: map[[32]byte]proto.Principal{}, revoked: map[[32]byte]bool{}, specs: specs{}, next: specs{},
		rules: newLaneRules(), saved: map[proto.ClientID]map[proto.AudienceID]*savedAudience{},
		reports: map[proto.ClientID]*segments.ReportBook{}, told: map[proto.ClientID]*campaignBook{},
		ever: map[defined][]version{}, handed: map[defined][]handed{}, ready: map[proto.SegmentKey]proto.SegmentKey{}, since: map[proto.SegmentKey]proto.SegmentKey{},
		books: map[proto.ClientID]*importBook{}, owners: map[proto.LaneID]string{},
		size: controlSize{most: log.ControlBytesMax}, limits: map[proto.ClientID]*rate.Limiter{},
	}
	r.stale.Store(true)
	return r
}

// follow reads the control stream until ctx ends, nil, or it cannot be followed.
func (r *registry) follow(ctx context.Context) error {
	for ctx.Err() == nil {
		err := r.control.Read(ctx, r.last()+1, func(rec log.Record) error {
			c, err := proto.DecodeControl(rec.Data)
			if err != nil {
				return err
			}
			return r.take(uint64(rec.Offset), rec.Data, c)
		})
		if err == nil || ctx.Err() != nil {
			return nil
		}
		if proto.CodeOf(err) != proto.CodeUnavailable {
			r.fail(err)
			return err
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	return nil
}

func (r *registry) last() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seq
}

// lastOfImports is last, and the newest record by which an import went on.
func (r *registry) lastOfImports() (last, went uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seq, r.went
}

func (r *registry) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fault = proto.Errorf(proto.CodeQuarantined, "the control stream can no longer be followed: %w. Nothing acknowledged is lost: mend the cause and restart", err)
	r.notify()
}

// broken is why the control stream can no longer be followed, nil if it is.
func (r *registry) broken() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.fault
}

// nextRecord is closed at the next control record.
func (r *registry) nextRecord() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}

func (r *registry) notify() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// take obeys one record.
func (r *registry) take(seq uint64, raw []byte, c *pb.Control) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.obey(seq, c); err != nil {
		return proto.Errorf(proto.CodeCorrupt, "control record %d cannot be obeyed: %w", seq, err)
	}
	r.seq = seq
	r.size.add(raw)
	r.records = append(r.records, slices.Clone(raw))
	r.stale.Store(true)
	r.notify()
	return nil
}

func (r *registry) obey(seq uint64, c *pb.Control) error {
	switch b := c.Body.(type) {
	case *pb.Control_Client:
		info := proto.ClientInfo{ID: proto.ClientID(seq), Name: proto.ClientName(b.Client.Name), Space: proto.SpaceID(seq), Floor: int(b.Client.Floor)}
		if info.Floor == 0 {
			info.Floor = floorDefault
		}
		if b.Client.Space != "" {
			if _, ok := r.spaces[b.Client.Space]; !ok {
				r.spaces[b.Client.Space] = info.Space
			}
			info.Space = r.spaces[b.Client.Space]
		}
		r.clients[info.Name] = info
	case *pb.Control_Key:
		delete(r.revoked, [32]byte(b.Key.Sha256)) // earlier builds made keys anew
		r.keys[[32]byte(b.Key.Sha256)] = proto.Principal{Role: proto.Role(b.Key.Role), Client: proto.ClientName(b.Key.Client), Key: proto.KeyID([32]byte(b.Key.Sha256))}
	case *pb.Control_RevokeKey:
		delete(r.keys, [32]byte(b.RevokeKey.Sha256))
		r.revoked[[32]byte(b.RevokeKey.Sha256)] = true
	case *pb.Control_Define:
		return r.obeyDefine(seq, c, b.Define)
	case *pb.Control_Swap:
		return r.obeySwap(seq, c, b.Swap)
	case *pb.Control_Undefine:
		if _, err := r.apply(seq, c); err != nil {
			return err
		}
		client, id := proto.ClientID(b.Undefine.Client), proto.SegmentID(b.Undefine.Id)
		delete(r.specs[client], id)
		delete(r.next[client], id)
		r.finish(defined{client, id}, proto.Millis(c.TimeMs))
		delete(r.handed, defined{client, id})
		r.imports(client).dropList(seq, id)
	case *pb.Control_EraseClient:
		if _, err := r.apply(seq, c); err != nil {
			return err
		}
		r.end(proto.ClientID(b.EraseClient.Client))
	case *pb.Control_Retain, *pb.Control_Feed:
		_, err := r.apply(seq, c)
		return err
	case *pb.Control_SaveAudience:
		r.obeySave(b.SaveAudience)
	case *pb.Control_DropAudience:
		delete(r.saved[proto.ClientID(b.DropAudience.Client)], proto.AudienceID(b.DropAudience.Id))
	case *pb.Control_Report:
		r.obeyReport(b.Report)
	case *pb.Control_Campaign:
		r.campaignBook(proto.ClientID(b.Campaign.Client)).Put(proto.Day(b.Campaign.Day), b.Campaign)
	case *pb.Control_Import:
		return r.obeyImport(seq, proto.Millis(c.TimeMs), b.Import)
	case *pb.Control_Place:
		r.obeyPlace(b.Place)
	}
	return nil
}

// apply obeys a record about rules.
func (r *registry) apply(seq uint64, c *pb.Control) (rulesChange, error) {
	ch, err := r.rules.apply(seq, c)
	for _, k := range ch.dropped {
		delete(r.since, k)
	}
	for _, k := range ch.refers {
		r.since[k] = proto.SegmentKey(seq)
	}
	return ch, err
}

// sinceOf gives of each version the record that a fill must have come after to
// be right, 0 for any.
func (r *registry) sinceOf(keys ...proto.SegmentKey) []proto.SegmentKey {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]proto.SegmentKey, len(keys))
	for i, k := range keys {
		list[i] = r.since[k]
	}
	return list
}

func (r *registry) obeyDefine(seq uint64, c *pb.Control, d *pb.Define) error {
	ch, err := r.apply(seq, c)
	if err != nil {
		return err
	}
	client := proto.ClientID(d.Client)
	r.sayIdle(client, ch.defined)
	s := proto.SegmentSpec{ID: proto.SegmentID(d.Id), Scope: d.Scope, When: d.When, Backfill: d.Backfill, Version: ch.defined}
	if ch.waits {
		r.next.set(client, s)
		return nil
	}
	old, ok := r.specs[client][s.ID]
	r.specs.set(client, s)
	delete(r.next[client], s.ID)
	if ok && old.Version == s.Version {
		return nil
	}
	delete(r.handed, defined{client, s.ID})
	return r.begin(client, &s, proto.Millis(c.TimeMs))
}

// sayIdle tells of a rule with patterns that are not run.
func (r *registry) sayIdle(client proto.ClientID, key proto.SegmentKey) {
	d, ok := r.rules.programs[client].ByKey(key)
	if !ok {
		return
	}
	idle := d.Rule.Idle()
	if len(idle) == 0 {
		return
	}
	for name, c := range r.clients {
		if c.ID == client {
			r.logger.Warn("a segment's patterns are too long to be run and match nothing: give it another rule", "client", string(name), "segment", string(d.ID), "patterns", len(idle))
		}
	}
}

// obeySwap has the version that waits answer. From here on this node answers by
// it: both versions have their members in all lanes. In a node that did not see it
// so itself a lane may be behind and not have them yet; its identities are in by the
// old version, too, until it obeys the Swap.
func (r *registry) obeySwap(seq uint64, c *pb.Control, b *pb.Swap) error {
	ch, err := r.apply(seq, c)
	if err != nil || ch.swapped == 0 {
		return err
	}
	client, id := proto.ClientID(b.Client), proto.SegmentID(b.Id)
	s := r.next[client][id]
	if since, ok := r.ready[s.Version]; !ok || since != r.since[s.Version] {
		r.handed[defined{client, id}] = append(r.handed[defined{client, id}], handed{r.specs[client][id], seq})
	}
	r.specs.set(client, s)
	delete(r.next[client], id)
	return r.begin(client, &s, proto.Millis(c.TimeMs))
}

// end lets go of a client and of its keys. mu is held.
func (r *registry) end(id proto.ClientID) {
	delete(r.specs, id)
	delete(r.next, id)
	maps.DeleteFunc(r.ever, func(d defined, _ []version) bool { return d.client == id })
	maps.DeleteFunc(r.handed, func(d defined, _ []handed) bool { return d.client == id })
	delete(r.saved, id)
	delete(r.reports, id)
	delete(r.told, id)
	delete(r.books, id)
	delete(r.limits, id)
	for name, c := range r.clients {
		if c.ID == id {
			delete(r.clients, name)
			r.gone[name] = id
			maps.DeleteFunc(r.keys, func(_ [32]byte, p proto.Principal) bool { return p.Client == name })
		}
	}
}

// living reports whether the client was not ended. mu is held.
func (r *registry) living(c proto.ClientInfo) bool {
	now, ok := r.clients[c.Name]
	return ok && now.ID == c.ID
}

func errNoClient(name proto.ClientName) error {
	return proto.Errorf(proto.CodeNotFound, "there is no client %q: GET /v1/clients (`kith client list`) lists them", name)
}

// ended is the last client of the name that was ended.
func (r *registry) ended(name proto.ClientName) (proto.ClientID, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	id, ok := r.gone[name]
	return id, ok
}

// closed reports whether a key was revoked, by a record or this node's configuration: it
// opens nothing, also where a configuration lists it as a key. mu is held.
func (r *registry) closed(sum [32]byte) bool { return r.revoked[sum] || r.refused[sum] }

// isRevoked is closed, for who does not hold mu.
func (r *registry) isRevoked(sum [32]byte) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.closed(sum)
}

const floorDefault = 50

// current is the view for hot paths, made anew when records came.
func (r *registry) current() *registryView {
	if !r.stale.Load() {
		return r.view.Load()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	v := &registryView{clients: maps.Clone(r.clients), keys: maps.Clone(r.keys), names: make([]proto.SegmentID, r.seq+1), users: make([]bool, r.seq+1)}
	maps.Copy(v.keys, r.static)
	maps.DeleteFunc(v.keys, func(sum [32]byte, _ proto.Principal) bool { return r.closed(sum) })
	for key, d := range r.rules.defines {
		g := r.rules.programs[d.client]
		if v.users[key] = g.UserScope(key); !g.Waits(key) {
			v.names[key] = d.id
		}
	}
	v.handed, v.swapped = r.behind()
	r.view.Store(v)
	r.stale.Store(false)
	return v
}

// wait returns once the record seq was taken.
func (r *registry) wait(ctx context.Context, seq uint64) error {
	return await(ctx, "the control stream was not read in time", func() (bool, <-chan struct{}, error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.seq >= seq, r.changed, r.fault
	})
}

// propose writes a record that decide makes, knowing all records before it.
// decide runs under the registry's lock; a nil record means nothing to do. It
// returns the record's sequence, 0 for none. One at a time of this node: of many
// that know the same records one alone gets its own in.
func (r *registry) propose(ctx context.Context, decide func() (*pb.Control, error)) (uint64, error) {
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
		return 0, proto.Errorf(proto.CodeTimeout, "others that define something were not done in time: %w", ctx.Err())
	}
	for {
		r.mu.Lock()
		last, fault := r.seq, r.fault
		var c *pb.Control
		err := fault
		if err == nil {
			c, err = decide()
		}
		r.mu.Unlock()
		if err != nil || c == nil {
			return 0, err
		}
		c.TimeMs = r.now().UnixMilli()
		raw, err := proto.EncodeControl(c)
		if err == nil && len(raw) > controlBytesMax {
			err = proto.Errorf(proto.CodeTooLarge, "a control record of %d bytes is too large: at most %d", len(raw), controlBytesMax)
		}
		if err != nil {
			return 0, err
		}
		seq, err := r.control.Append(ctx, raw, last)
		if err == nil {
			return seq, r.wait(ctx, seq)
		}
		if proto.CodeOf(err) != proto.CodeConflict {
			return 0, err
		}
		if err := r.wait(ctx, last+1); err != nil {
			return 0, err
		}
	}
}

// from gives records from sequence seq on, at most n.
func (r *registry) from(seq uint64, n int) [][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	if seq == 0 || seq > r.seq {
		return nil
	}
	list := r.records[seq-1:]
	return list[:min(len(list), n)]
}

// relayed gives the commands of an entry for a lane that obeyed the records up to
// a sequence: the next ones, as many as fit.
func (r *registry) relayed(obeyed uint64) (bodies [][]byte) {
	bytes := 0
	for i, raw := range r.from(obeyed+1, controlMax) {
		if bytes += len(raw); i > 0 && bytes > controlBytesMax {
			break
		}
		x := proto.Relayed{Seq: obeyed + 1 + uint64(i), Record: raw}
		bodies = append(bodies, x.Append(nil))
	}
	return bodies
}

// keyRecords are the keys of a client that open, oldest first.
func (r *registry) keyRecords(c proto.ClientInfo) (list []proto.KeyInfo) {
	r.mu.Lock()
	defer r.mu.Unlock()
	told := map[[32]byte]bool{} // one may have been made again, or be another client's by now
	for _, raw := range slices.Backward(r.records[min(int(c.ID), len(r.records)):]) {
		rec, err := proto.DecodeControl(raw)
		if err != nil || rec.GetKey() == nil || rec.GetKey().Client != string(c.Name) {
			continue // take has decoded it before
		}
		k := rec.GetKey()
		sum := [32]byte(k.Sha256)
		if now, open := r.keys[sum]; open && now.Client == c.Name && !told[sum] && !r.closed(sum) {
			told[sum] = true
			list = append(list, proto.KeyInfo{Role: proto.Role(k.Role), Note: k.Note, Created: proto.Millis(rec.TimeMs).Time()})
		}
	}
	slices.Reverse(list)
	return list
}

// specWithNext is the definition of a segment that answers, with what waits beside
// it, nil if nothing does.
func (r *registry) specWithNext(c proto.ClientID, id proto.SegmentID) (s proto.SegmentSpec, next *proto.SegmentSpec, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s, ok = r.specs[c][id]; ok {
		s.Cost = r.rules.program(c).Ahead(id)
	}
	if x, waits := r.next[c][id]; waits {
		next = &x
	}
	return s, next, ok
}

func (r *registry) all(c proto.ClientID) []proto.SegmentSpec {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.SortedFunc(maps.Values(r.specs[c]), func(a, b proto.SegmentSpec) int {
		return slices.Compare([]byte(a.ID), []byte(b.ID))
	})
}

// check says whether the definition may follow what is defined, by the rules
// of laneRules.define. The registry's lock is held. That member() names what is not
// defined is an error of the rule.
func (r *registry) check(c proto.ClientID, d segments.Definition, backfill bool) error {
	if r.answersBy(c, d) {
		return nil
	}
	g := r.rules.programs[c]
	if g == nil {
		g = segments.NewProgram()
	}
	if _, ok := g.Get(d.ID); !ok || !backfill {
		return ofRule(g.Check(d))
	}
	if next, waits := g.Waiting(d.ID); waits && sameRule(next, d) {
		return nil
	}
	return ofRule(g.CheckBeside(d))
}

// answersBy reports whether d's rule is the one by which its segment answers: then it
// makes no new version. The registry's lock is held.
func (r *registry) answersBy(c proto.ClientID, d segments.Definition) bool {
	g := r.rules.programs[c]
	if g == nil {
		return false
	}
	old, ok := g.Get(d.ID)
	return ok && sameRule(old, d)
}

// ofRule is err with CodeRule in the place of CodeNotFound.
func ofRule(err error) error {
	var e *proto.Error
	if !errors.As(err, &e) || e.Code != proto.CodeNotFound {
		return err
	}
	x := *e
	x.Code = proto.CodeRule
	return &x
}

// authenticate knows a key by its hash.
func (r *registry) authenticate(key string) (proto.Principal, bool) {
	p, ok := r.current().keys[sha256.Sum256([]byte(key))]
	return p, ok
}

// withRules calls fn with the client's rules as they are, which must not be
// kept; nil if there are none.
func (r *registry) withRules(c proto.ClientID, fn func(*segments.Program) error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return fn(r.rules.programs[c])
}

// referredBy is a segment whose rule refers to id, empty if there is none.
// The registry's lock is held.
func (r *registry) referredBy(c proto.ClientID, id proto.SegmentID) proto.SegmentID {
	g := r.rules.programs[c]
	if g == nil {
		return ""
	}
	for _, d := range g.All() {
		if slices.Contains(d.Rule.Refers(), id) {
			return d.ID
		}
	}
	return ""
}
