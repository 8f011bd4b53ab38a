package engine

import (
	"context"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"kith/actors/identity"
	"kith/engine/store"
	"kith/graph"
	"kith/proto"
)

// optOutWait is how long an opt-out is waited for before the answer is that it
// is not final yet.
const optOutWait = 2 * time.Second

// answers are those who wait for the decision on a command, by its id.
type answers struct {
	mu      sync.Mutex
	waiting map[uint64]chan answer
}

// answer is what became of a command.
type answer struct {
	decision graph.Decision
	final    bool
	hash     proto.IdentityHash
	cut      identity.Cut
}

func (a *answers) init() { a.waiting = map[uint64]chan answer{} }

// expect makes a command's id and the channel on which its answer comes.
func (a *answers) expect() (uint64, <-chan answer) {
	var raw [8]byte
	rand.Read(raw[:])
	id, ch := binary.LittleEndian.Uint64(raw[:])|1, make(chan answer, 1) // never 0
	a.mu.Lock()
	defer a.mu.Unlock()
	a.waiting[id] = ch
	return id, ch
}

func (a *answers) forget(id uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.waiting, id)
}

func (a *answers) give(id uint64, x answer) {
	if ch := a.waiting[id]; ch != nil {
		ch <- x
		delete(a.waiting, id)
	}
}

// decide hands decisions of a commit out.
func (a *answers) decide(list []graph.Decision) {
	if len(list) == 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, d := range list {
		a.give(d.Command, answer{decision: d})
	}
}

// finish hands a final cut out.
func (a *answers) finish(h proto.IdentityHash, c identity.Cut) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.give(c.Command, answer{final: true, hash: h, cut: c})
}

// ask submits a command and waits for its answer.
func (n *Node) ask(ctx context.Context, l *lane, id uint64, ch <-chan answer, b *proto.Batch) (answer, error) {
	defer n.answers.forget(id)
	if r := n.Submit(ctx, b); r.Err != nil {
		return answer{}, r.Err
	}
	return n.awaitAnswer(ctx, l, ch)
}

// awaitAnswer waits for the answer to a command that was submitted.
func (n *Node) awaitAnswer(ctx context.Context, l *lane, ch <-chan answer) (answer, error) {
	for {
		l.progress.mu.Lock()
		fault, changed := l.progress.fault, l.progress.changed
		l.progress.mu.Unlock()
		if fault != nil {
			return answer{}, fault
		}
		select {
		case x := <-ch:
			return x, nil
		case <-changed:
		case <-ctx.Done():
			return answer{}, proto.Errorf(proto.CodeTimeout, "it is durable but not decided yet: ask again: %w", ctx.Err())
		}
	}
}

func (n *Node) laneFor(h proto.IdentityHash) *lane { return n.laneOf[h.Partition()] }

// OptOut cuts id out of every space.
func (n *Node) OptOut(ctx context.Context, id proto.Identity, everywhere bool) (proto.OptOutState, error) {
	return n.cut(ctx, id, proto.CutCommand{Kind: proto.CutOptOut, Everywhere: everywhere})
}

// OptOutAll cuts out many identities with one sync, and gives the state of each.
func (n *Node) OptOutAll(ctx context.Context, ids []proto.Identity, everywhere bool) ([]proto.OptOutState, error) {
	return n.cutAll(ctx, ids, proto.CutCommand{Kind: proto.CutOptOut, Everywhere: everywhere})
}

// Erase forgets id, or what one client knows of it.
func (n *Node) Erase(ctx context.Context, client *proto.ClientInfo, id proto.Identity) (proto.OptOutState, error) {
	c := proto.CutCommand{Kind: proto.CutErase}
	if client != nil {
		c = proto.CutCommand{Kind: proto.CutForget, Client: client.ID, Space: client.Space}
	}
	return n.cut(ctx, id, c)
}

func (n *Node) cut(ctx context.Context, id proto.Identity, c proto.CutCommand) (proto.OptOutState, error) {
	list, err := n.cutAll(ctx, []proto.Identity{id}, c)
	if err != nil {
		return proto.OptOutState{}, err
	}
	return list[0], nil
}

// cutAll cuts identities by one submission, each by a command like c.
func (n *Node) cutAll(ctx context.Context, ids []proto.Identity, c proto.CutCommand) ([]proto.OptOutState, error) {
	ctx, done, err := n.working(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	began := time.Now()
	var b proto.Batch
	commands, answers := make([]uint64, len(ids)), make([]<-chan answer, len(ids))
	for i, id := range ids {
		commands[i], answers[i] = n.answers.expect()
		defer n.answers.forget(commands[i])
		c.Hash, c.Received, c.Command = n.hasher.Hash(id), n.now(), commands[i]
		b.AddCut(&c)
	}
	r := n.submit(ctx, &b, n.refusalOfCuts())
	if r.Err != nil {
		return nil, r.Err
	}
	wait, cancel := context.WithDeadline(ctx, began.Add(optOutWait))
	defer cancel()
	list := make([]proto.OptOutState, len(ids))
	for i, id := range ids {
		x, err := n.awaitAnswer(wait, n.laneFor(n.hasher.Hash(id)), answers[i])
		n.cutSeconds.Observe(time.Since(began).Seconds())
		if proto.CodeOf(err) == proto.CodeTimeout && ctx.Err() == nil {
			list[i], err = n.lateState(ctx, id, commands[i], r.Position)
		} else if err == nil {
			list[i], err = n.cutState(ctx, id, c.Kind, x)
		}
		if err != nil {
			return nil, err
		}
	}
	return list, nil
}

// lateState is that of a cut which is not final in time. It is applied at
// least: nothing of the identity is shown any more.
func (n *Node) lateState(ctx context.Context, id proto.Identity, command uint64, at proto.Position) (proto.OptOutState, error) {
	if err := n.Wait(ctx, at); err != nil {
		return proto.OptOutState{}, proto.Errorf(proto.CodeUnavailable, "the command is durable and will be carried out, but is not applied yet: ask again: %w", err)
	}
	s, err := n.OptOutState(ctx, id)
	if s.Receipt != nil && s.Receipt.ID != commandID(command) {
		s.Final, s.Receipt = false, nil // of another cut
	}
	return s, err
}

// cutState is what to tell of a cut whose answer is x.
func (n *Node) cutState(ctx context.Context, id proto.Identity, kind proto.CutKind, x answer) (proto.OptOutState, error) {
	switch {
	case !x.final && x.decision.Reason == graph.ReasonBusy:
		return proto.OptOutState{}, proto.Errorf(proto.CodeOverloaded, "too many opt-outs of this identity are under way: try again later; it is opted out")
	case !x.final: // an erasure of what is opted out: nothing is left
		return n.OptOutState(ctx, id)
	}
	s := n.stateOf(id)
	s.OptedOut, s.Final = kind == proto.CutOptOut, true
	since := x.cut.Time.Time()
	s.Since, s.Receipt = &since, n.receipt(x.hash, &x.cut)
	return s, nil
}

// OptIn lets an opted-out identity be known again.
func (n *Node) OptIn(ctx context.Context, id proto.Identity) (proto.OptOutState, error) {
	ctx, done, err := n.working(ctx)
	if err != nil {
		return proto.OptOutState{}, err
	}
	defer done()
	h := n.hasher.Hash(id)
	o, err := n.optOut(h)
	if err != nil {
		return proto.OptOutState{}, err
	}
	if o == nil || !o.Dark() {
		return proto.OptOutState{}, proto.Errorf(proto.CodeConflict, "the identity is not opted out")
	}
	command, ch := n.answers.expect()
	var b proto.Batch
	b.AddOptIn(&proto.OptInCommand{Hash: h, Gen: o.Gen, Received: n.now(), Command: command})
	x, err := n.ask(ctx, n.laneFor(h), command, ch, &b)
	if err != nil {
		return proto.OptOutState{}, err
	}
	if !x.decision.Linked {
		return proto.OptOutState{}, proto.Errorf(proto.CodeConflict, "the identity was opted out again, or in, meanwhile: look at its state and ask again")
	}
	if err := n.ledger.await(ctx, h); err != nil {
		return proto.OptOutState{}, err
	}
	return n.OptOutState(ctx, id)
}

// optOut is what is published of an identity's opt-out, nil if it was never cut.
func (n *Node) optOut(h proto.IdentityHash) (*identity.OptOut, error) {
	snap := n.laneFor(h).acquire()
	defer snap.release()
	return storedOptOut(snap, h)
}

func storedOptOut(snap store.Snapshot, h proto.IdentityHash) (*identity.OptOut, error) {
	var o identity.OptOut
	found, err := source{snap}.OptOut(h, o.Decode)
	if err != nil || !found {
		return nil, err
	}
	return &o, nil
}

func (n *Node) stateOf(id proto.Identity) proto.OptOutState {
	return proto.OptOutState{Identity: id, Status: "/v1/optouts/" + url.PathEscape(string(id))}
}

// OptOutState is how far the newest opt-out or erasure of id is.
func (n *Node) OptOutState(_ context.Context, id proto.Identity) (proto.OptOutState, error) {
	s := n.stateOf(id)
	h := n.hasher.Hash(id)
	known := n.ledger.knows(h) // before it is read: what is read then was told
	o, err := n.optOut(h)
	if err != nil || o == nil {
		return s, err
	}
	s.OptedOut = o.Dark()
	if o.Since > 0 {
		since := o.Since.Time()
		s.Since = &since
	}
	if c := o.Newest(); c != nil && c.Final && known {
		s.Final, s.Receipt = true, n.receipt(h, c)
	}
	return s, nil
}

// knows reports whether nothing of an identity is still to be told.
func (x *ledger) knows(h proto.IdentityHash) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.pending[h] == 0
}

// signer signs receipts.
type signer struct {
	secret [16]byte // of the identity hashes
	key    ed25519.PrivateKey
}

// ReceiptKey is the public key of the node's receipts.
func (n *Node) ReceiptKey() string {
	return hex.EncodeToString(n.signer.key.Public().(ed25519.PublicKey))
}

// mac is HMAC-SHA-256 over an identity's keyed hash, keyed with the same secret.
func (s *signer) mac(h proto.IdentityHash) string {
	m := hmac.New(sha256.New, s.secret[:])
	m.Write(h[:])
	return hex.EncodeToString(m.Sum(nil))
}

func actionOf(k proto.CutKind) string {
	if k == proto.CutOptOut {
		return "optout"
	}
	return "erase"
}

// commandID is a command's id as receipts show it.
func commandID(id uint64) string { return strconv.FormatUint(id, 16) }

// receipt is the signed proof of a final cut.
func (n *Node) receipt(h proto.IdentityHash, c *identity.Cut) *proto.Receipt {
	l := n.laneFor(h)
	p := proto.Position{}
	for lane, at := range c.Vector {
		if at > 0 {
			p[proto.LaneID(lane)] = at
		}
	}
	r := &proto.Receipt{
		Version: proto.ReceiptVersion, ID: commandID(c.Command), Node: n.config.Node, Action: actionOf(c.Kind),
		IdentityHMAC: n.signer.mac(h), IdentityHash: h.String(), Generation: c.Gen, Everywhere: c.Everywhere, Also: int(c.Also),
		Partition: int(h.Partition()), Lane: l.id, Offset: c.Offset, Time: c.Time.Time(),
		CopiesRetracted: int(c.Copies), MembersRefreshed: int(c.Members), Position: p.String(),
		LogClearBy: c.Time.Time().Add(n.config.LogRetention + 2*time.Minute).Truncate(time.Second),
		PublicKey:  n.ReceiptKey(),
	}
	if c.Kind == proto.CutForget {
		r.Client = n.registry.clientNames()[c.Client]
	}
	r.Signature = hex.EncodeToString(ed25519.Sign(n.signer.key, r.SignedBytes()))
	return r
}

// ValidReceipt reports whether the receipt is signed by the key that it names.
func ValidReceipt(r *proto.Receipt) bool {
	key, err1 := hex.DecodeString(r.PublicKey)
	sig, err2 := hex.DecodeString(r.Signature)
	return err1 == nil && err2 == nil && len(key) == ed25519.PublicKeySize && ed25519.Verify(key, r.SignedBytes(), sig)
}

// receiptKey is the key kept in the data directory, made at the first start.
func receiptKey(c Config) (ed25519.PrivateKey, error) {
	dir := c.secretsDir()
	name := filepath.Join(dir, "receipt.key")
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		seed := make([]byte, ed25519.SeedSize)
		rand.Read(seed)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, proto.Errorf(proto.CodeUnavailable, "make %s: %w", dir, err)
		}
		return ed25519.NewKeyFromSeed(seed), writeSynced(name, []byte(hex.EncodeToString(seed)+"\n"))
	}
	if err != nil {
		return nil, proto.Errorf(proto.CodeUnavailable, "read the key of receipts: %w", err)
	}
	seed, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(seed) != ed25519.SeedSize {
		return nil, proto.Errorf(proto.CodeCorrupt, "%s must hold 64 hexadecimal digits: put back the file that this data directory was made with", name)
	}
	return ed25519.NewKeyFromSeed(seed), nil
}
