package gateway

import (
	"bytes"
	"encoding/json"
	"net/http"

	"kith/proto"
)

// ParseReceipt reads a receipt, alone or as the member "receipt" of the answer
// that it came in. It checks the form, not the signature.
func ParseReceipt(b []byte) (proto.Receipt, error) {
	var answer struct {
		Receipt json.RawMessage `json:"receipt"`
		Final   *bool           `json:"final"`
	}
	if err := ambiguous(b); err != nil { // of the answer; else the last of two would count
		return proto.Receipt{}, err
	}
	// What is wrong is found again below, with its place.
	whole := json.Unmarshal(b, &answer) == nil
	none := len(answer.Receipt) == 0 || bytes.Equal(answer.Receipt, []byte("null"))
	switch {
	case whole && none && answer.Final != nil:
		return proto.Receipt{}, proto.Errorf(proto.CodeInvalid, "there is no receipt in it yet: ask the route in its status until it is final")
	case whole && !none:
		b = answer.Receipt
	}
	var r proto.Receipt
	if err := decodeStrict(b, &r); err != nil {
		return proto.Receipt{}, err
	}
	switch {
	case r.Version == 0 || r.Signature == "" || r.PublicKey == "":
		return proto.Receipt{}, proto.Errorf(proto.CodeInvalid, "this is no receipt: it has no version, public_key or signature")
	case r.Version != proto.ReceiptVersion:
		return proto.Receipt{}, proto.Errorf(proto.CodeInvalid, "the receipt has version %d, this program knows %d: use the program that wrote it, or a newer one", r.Version, proto.ReceiptVersion)
	}
	return r, nil
}

// IdentityBeside is the identity in the answer that a receipt came in, "" if there is
// none. It is not signed.
func IdentityBeside(b []byte) proto.Identity {
	var answer struct {
		Identity proto.Identity `json:"identity"`
	}
	if json.Unmarshal(b, &answer) != nil {
		return ""
	}
	return answer.Identity
}

// receiptKey is the answer of GET /v1/receipts/key.
type receiptKey struct {
	PublicKey string `json:"public_key"`
	Algorithm string `json:"algorithm"`
}

// getReceiptKey tells everybody by which key receipts can be checked.
func (g *Gateway) getReceiptKey(w http.ResponseWriter, r *http.Request) error {
	g.allowOrigin(w, r, "")
	return writeValue(w, http.StatusOK, receiptKey{g.deps.OptOuts.ReceiptKey(), "ed25519"})
}

// verifyReceipt looks for what a receipt says is gone.
func (g *Gateway) verifyReceipt(w http.ResponseWriter, r *http.Request, who proto.Principal) error {
	if _, err := g.askedBy(r, who); err != nil {
		return err
	}
	body, err := g.readJSON(w, r)
	if err != nil {
		return err
	}
	receipt, err := ParseReceipt(body)
	if err != nil {
		return err
	}
	var by proto.ClientID
	if who.Client != "" {
		client, err := g.clientFor(who, "")
		if err != nil {
			return err
		}
		by = client.ID
	}
	unhurried(w)
	check, err := g.deps.OptOuts.CheckReceipt(r.Context(), by, receipt)
	if err != nil {
		return err
	}
	if id := IdentityBeside(body); id != "" && check.Signature {
		same := g.deps.Intake.Hasher().Hash(id).String() == receipt.IdentityHash
		check.Identity = &same
	}
	if check.Places == nil {
		check.Places = []proto.ReceiptFind{}
	}
	return writeValue(w, http.StatusOK, check)
}
