package main

import (
	"cmp"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kith/engine"
	"kith/gateway"
	"kith/proto"
)

func newReceiptCommand(c *connection) *cobra.Command {
	cmd := asGroup(&cobra.Command{
		Use:     "receipt",
		Short:   "Check receipts of opt-outs and erasures",
		Example: "  kith receipt verify receipt.json --key demo-key",
	})
	cmd.AddCommand(newReceiptVerifyCommand(c), newReceiptKeyCommand(c))
	return cmd
}

func newReceiptKeyCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "key",
		Short:   "The public key of a node's receipts",
		Long:    "Prints the public key that a node's receipts are signed by. It takes no service key.",
		Example: "  kith receipt key",
		Args:    noArgs,
	}
	c.flags(cmd)
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		k, err := c.receiptKey(cmd)
		switch {
		case err != nil:
			return err
		case *asJSON:
			return printJSON(cmd, k)
		}
		printf(cmd, "%s\n", k.PublicKey)
		return nil
	}
	return cmd
}

type receiptKey struct {
	PublicKey string `json:"public_key"`
	Algorithm string `json:"algorithm"`
}

func (c *connection) receiptKey(cmd *cobra.Command) (k receiptKey, err error) {
	r, err := c.keyless(cmd.Context(), http.MethodGet, "/v1/receipts/key", nil, nil)
	if err != nil {
		return k, err
	}
	return k, c.send(r, &k)
}

// receiptFlags say what a receipt is checked against.
type receiptFlags struct {
	data, config, publicKey string
	offline                 bool
}

func newReceiptVerifyCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify FILE",
		Short: "Check a receipt's signature, and that nothing is left",
		Long: `Checks the signature of a receipt, by a key of the node or that of --public-key, and then
that nothing is left of what it says is gone: it asks a running node, or looks into a
data directory on which no node runs with --data. FILE is what kith optout printed, or -
for standard input. An identity that stands beside the receipt, as in answers of the
opt-out routes, is compared with it there. Exit code 1: the signature is bad, something
was found, or the receipt is another identity's. With --offline the signature is all
that is checked, and all that --json tells. After a node was killed its directory
may not have taken the opt-out in: start it once.`,
		Example: `  kith receipt verify receipt.json --key demo-key
  kith receipt verify receipt.json --data ./kith-data
  kith receipt verify receipt.json --offline --public-key HEX`,
		Args: exactly(1, "the file of a receipt"),
	}
	c.flags(cmd)
	asJSON := jsonFlag(cmd)
	var f receiptFlags
	data := namingFlag(cmd, "data", "data `DIR`ectory to look into, without a node")
	file := namingFlag(cmd, "config", "configuration `FILE` of that directory's node, if it has one")
	key := namingFlag(cmd, "public-key", "`HEX` of the key that must have signed; default: one of the node's own")
	cmd.Flags().BoolVar(&f.offline, "offline", false, "check the signature only")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		f.data, f.config, f.publicKey = *data, *file, *key
		if err := f.validate(); err != nil {
			return err
		}
		r, id, err := readReceipt(cmd, args[0])
		if err != nil {
			return err
		}
		check, err := f.check(cmd, c, r, id)
		if err != nil {
			return err
		}
		switch {
		case *asJSON && f.offline:
			err = printJSON(cmd, signatureCheck{check.Signature})
		case *asJSON:
			err = printJSON(cmd, check)
		default:
			printCheck(cmd, r, id, check, f.offline)
		}
		if err == nil {
			err = f.verdict(r, id, check)
		}
		return err
	}
	return cmd
}

// signatureCheck is what of a ReceiptCheck is known where nothing was searched.
type signatureCheck struct {
	Signature bool `json:"signature"`
}

func (f *receiptFlags) validate() error {
	f.publicKey = strings.ToLower(f.publicKey)
	if k, err := hex.DecodeString(f.publicKey); f.publicKey != "" && (err != nil || len(k) != ed25519.PublicKeySize) {
		return usagef("--public-key is not a key: write the 64 hex digits that kith receipt key prints")
	}
	switch {
	case f.offline && f.publicKey == "":
		return usagef("--offline needs the key that must have signed: --public-key HEX")
	case f.offline && (f.data != "" || f.config != ""):
		return usagef("--offline looks into nothing: leave out --data and --config")
	}
	return nil
}

// receiptBytesMax bounds a receipt's file.
const receiptBytesMax = 64 << 10

// readReceipt reads a receipt, and the identity that stands beside it, if one does.
func readReceipt(cmd *cobra.Command, file string) (proto.Receipt, proto.Identity, error) {
	var b []byte
	var err error
	if file == "-" {
		b, err = readBounded(cmd.InOrStdin(), receiptBytesMax)
	} else if f, openErr := os.Open(file); openErr != nil {
		err = openErr
	} else {
		b, err = readBounded(f, receiptBytesMax)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return proto.Receipt{}, "", proto.Errorf(proto.CodeNotFound, "cannot read the receipt (%w)", err)
	}
	if !json.Valid(b) { // such as the empty file of an opt-out that failed
		return proto.Receipt{}, "", proto.Errorf(proto.CodeInvalid, "%s: this is no receipt, for it is not JSON: pass what kith optout printed", file)
	}
	r, err := gateway.ParseReceipt(b)
	if err != nil {
		return r, "", fmt.Errorf("%s: %w", file, err)
	}
	return r, gateway.IdentityBeside(b), nil
}

// check checks the signature here, whoever else does, and then looks for what
// should be gone.
func (f *receiptFlags) check(cmd *cobra.Command, c *connection, r proto.Receipt, id proto.Identity) (check proto.ReceiptCheck, err error) {
	key := cmp.Or(f.publicKey, r.PublicKey) // whether that is one of the node's, or of the directory's, the engine says
	switch {
	case f.offline: // there is nothing to ask
	case f.data != "" || f.config != "":
		check, err = f.checkData(cmd, r, id)
	default:
		check, err = f.checkNode(cmd, c, r, id)
	}
	if err != nil {
		return check, err
	}
	check.Signature = signed(r, key) && (f.offline || check.Signature)
	if check.Places == nil { // a bad signature ends it before the search
		check.Places = []proto.ReceiptFind{}
	}
	return check, nil
}

func (f *receiptFlags) checkData(cmd *cobra.Command, r proto.Receipt, id proto.Identity) (proto.ReceiptCheck, error) {
	ec, err := offlineConfig(cmd, f.config, f.data)
	if err != nil {
		return proto.ReceiptCheck{}, err
	}
	if _, err := os.Stat(ec.Dir); err != nil {
		return proto.ReceiptCheck{}, proto.Errorf(proto.CodeNotFound, "cannot read the data directory (%w)", err)
	}
	check, err := engine.CheckReceipt(cmd.Context(), ec, r)
	if err != nil || id == "" || !check.Signature {
		return check, err
	}
	h, err := engine.HashOf(ec, id)
	same := h.String() == r.IdentityHash
	check.Identity = &same
	return check, err
}

func (f *receiptFlags) checkNode(cmd *cobra.Command, c *connection, r proto.Receipt, id proto.Identity) (check proto.ReceiptCheck, err error) {
	var body any = r
	if id != "" {
		body = struct {
			Identity proto.Identity `json:"identity"`
			Receipt  proto.Receipt  `json:"receipt"`
		}{id, r}
	}
	err = c.call(cmd.Context(), http.MethodPost, "/v1/receipts/verify", nil, body, &check)
	return check, err
}

// signed reports whether the holder of key signed r.
func signed(r proto.Receipt, key string) bool {
	public, err := hex.DecodeString(key)
	if err != nil || len(public) != ed25519.PublicKeySize || !strings.EqualFold(r.PublicKey, key) {
		return false
	}
	signature, err := hex.DecodeString(r.Signature)
	return err == nil && ed25519.Verify(public, r.SignedBytes(), signature)
}

func printCheck(cmd *cobra.Command, r proto.Receipt, id proto.Identity, check proto.ReceiptCheck, offline bool) {
	printf(cmd, "%s of %s by %s, lane %s at %d\n", r.Action, r.Time.Format(time.RFC3339), r.Node, r.Lane, r.Offset)
	verdict := "BAD"
	if check.Signature {
		verdict = "good"
	}
	printf(cmd, "  signature: %s\n", verdict)
	switch {
	case id == "":
		printf(cmd, "  identity: none stands beside the receipt; whose it is was not checked\n")
	case check.Identity == nil:
		printf(cmd, "  identity: whether it is of %q was not checked; it takes the node, or --data, and a good signature\n", id)
	case *check.Identity:
		printf(cmd, "  identity: it is of %q\n", id)
	default:
		printf(cmd, "  identity: it is NOT of %q\n", id)
	}
	if offline {
		return
	}
	for _, p := range check.Places {
		printf(cmd, "  %s: %d found\n", p.Place, p.Found)
	}
	switch {
	case check.LogUnread:
		printf(cmd, "  log: it was not looked at, as several nodes keep it: ask one of them (--service)\n")
	case check.LogClear:
		printf(cmd, "  log: no entry from before is left; the oldest is %d\n", check.LogFirst)
	default:
		printf(cmd, "  log: entries from before are kept until %s; a node that is alone removes them with kith erase --now\n", r.LogClearBy.Format(time.RFC3339))
	}
}

// verdict is the error, if the receipt does not hold.
func (f *receiptFlags) verdict(r proto.Receipt, id proto.Identity, check proto.ReceiptCheck) error {
	found := 0
	for _, p := range check.Places {
		found += p.Found
	}
	switch {
	case !check.Signature:
		return proto.Errorf(proto.CodeCorrupt, "the signature is bad: the receipt was changed, or another node gave it")
	case check.Identity != nil && !*check.Identity:
		return proto.Errorf(proto.CodeCorrupt, "the receipt is not of %q, which stands beside it: the file was changed, or put together from two", id)
	case !f.offline && (!check.Clean || found > 0):
		return proto.Errorf(proto.CodeCorrupt, "%d traces were found of what the receipt says is gone: keep the data as they are, and report this", found)
	case !f.offline && !check.LogUnread && !check.LogClear && time.Now().After(r.LogClearBy):
		return proto.Errorf(proto.CodeCorrupt, "the log still holds entries from before, %s after the receipt's limit: run kith erase --now if the node is alone, else see to it that its log is shortened (log_retention)", time.Since(r.LogClearBy).Round(time.Second))
	}
	return nil
}
