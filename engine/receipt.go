package engine

import (
	"cmp"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"kith/actors/identity"
	"kith/proto"
)

// signer signs receipts.
type signer struct {
	secret [16]byte // of the identity hashes
	key    ed25519.PrivateKey
	before string // public key of the node's receipts from before it joined a cluster; empty: none
}

// verifies reports whether a public key is one that this node has signed by: its own,
// that of a cluster with its secret, or the one of before.
func (s *signer) verifies(public string) bool {
	return public != "" && slices.Contains([]string{publicOf(s.key), publicOf(commonReceiptKey(s.secret)), s.before}, public)
}

func publicOf(key ed25519.PrivateKey) string {
	return hex.EncodeToString(key.Public().(ed25519.PublicKey))
}

// ReceiptKey is the public key of the node's receipts.
func (n *Node) ReceiptKey() string {
	return publicOf(n.signer.key)
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

// receiptID is the command's id; of who was cut along with another, without a command
// of its own, one that all nodes derive from the cut.
func receiptID(h proto.IdentityHash, c *identity.Cut) string {
	if c.Command != 0 {
		return commandID(c.Command)
	}
	b := binary.BigEndian.AppendUint64(h[:], uint64(c.Offset))
	sum := sha256.Sum256(binary.BigEndian.AppendUint32(b, c.Gen))
	return commandID(binary.BigEndian.Uint64(sum[:]))
}

// receipt is the signed proof of a final cut, for a client of what was done in its space,
// without one of all.
func (n *Node) receipt(h proto.IdentityHash, c *identity.Cut, by proto.ClientInfo) *proto.Receipt {
	counts := c.CutCounts
	if by.ID != 0 {
		counts = c.In(by.Space)
	}
	// A receipt is of the lanes that there were, also where a restore made others.
	lane := laneIn(h.Partition(), cmp.Or(len(c.Vector), n.config.Lanes))
	p := proto.Position{}
	for id, at := range c.Vector {
		if at > 0 {
			p[proto.LaneID(id)] = at
		}
	}
	r := &proto.Receipt{
		Version: proto.ReceiptVersion, ID: receiptID(h, c), Node: n.config.Node, Action: actionOf(c.Kind),
		IdentityHMAC: n.signer.mac(h), IdentityHash: h.String(), Generation: c.Gen, Everywhere: c.Everywhere, Also: int(counts.Also),
		Partition: int(h.Partition()), Lane: lane, Offset: c.Offset, Time: c.Time.Time(),
		CopiesRetracted: int(counts.Copies), MembersRefreshed: int(counts.Members), Position: p.String(),
		LogClearBy: c.Time.Time().Add(n.config.LogRetention + 2*time.Minute).Truncate(time.Second),
		PublicKey:  n.ReceiptKey(),
	}
	if c.Kind == proto.CutForget {
		r.Client = n.registry.nameEver(c.Client)
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

// CommonKey is a key of 32 bytes, for one purpose, that all nodes with a secret
// in common come to: HMAC-SHA-256 of the purpose.
func CommonKey(secret []byte, purpose string) []byte {
	m := hmac.New(sha256.New, secret)
	m.Write([]byte("kith: " + purpose))
	return m.Sum(nil)
}

// PseudonymKey keys what others are told instead of identities. It is the same on
// all nodes of a cluster, and after a restore.
func (n *Node) PseudonymKey() []byte { return CommonKey(n.signer.secret[:], "key of pseudonyms") }

// commonReceiptKey is that of a cluster: receipts of all its nodes verify by the same
// public key.
func commonReceiptKey(secret [16]byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(CommonKey(secret[:], "key of receipts"))
}

// signInCluster has a node of a cluster sign by the common key. By the one that its
// directory has of before nothing is signed any more.
func (n *Node) signInCluster(c Config) {
	n.signer.key = commonReceiptKey(n.signer.secret)
	old, err := storedReceiptKey(c)
	switch {
	case err == nil:
		n.signer.before = publicOf(old)
	case !errors.Is(err, fs.ErrNotExist):
		c.Logger.Warn("receipts from before this node was in a cluster do not verify here", "error", err)
	}
}

// receiptKey is the key kept in the data directory, made at the first start.
func receiptKey(c Config) (ed25519.PrivateKey, error) {
	key, err := storedReceiptKey(c)
	if errors.Is(err, fs.ErrNotExist) {
		seed := make([]byte, ed25519.SeedSize)
		rand.Read(seed)
		return ed25519.NewKeyFromSeed(seed), putSecret(c, "receipt.key", []byte(hex.EncodeToString(seed)))
	}
	return key, err
}

// receiptKeyOf is receiptKey; of a directory that has been served it says that it was
// lost.
func receiptKeyOf(c Config, served bool) (ed25519.PrivateKey, error) {
	if _, err := storedReceiptKey(c); served && errors.Is(err, fs.ErrNotExist) {
		c.Logger.Warn("the key of receipts is lost and a new one is made: receipts from before are not of it; if there is a copy, stop and put it back", "file", filepath.Join(c.secretsDir(), "receipt.key"))
	}
	return receiptKey(c)
}

// storedReceiptKey is the same where there must be one.
func storedReceiptKey(c Config) (ed25519.PrivateKey, error) {
	name := filepath.Join(c.secretsDir(), "receipt.key")
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errNoSecret(err)
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
