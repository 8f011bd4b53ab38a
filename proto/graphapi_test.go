package proto_test

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"kith/proto"
)

func goldenReceipt() proto.Receipt {
	at := time.Date(2026, 1, 1, 0, 0, 0, 123e6, time.FixedZone("CET", 3600))
	return proto.Receipt{
		Version: proto.ReceiptVersion, ID: "c-17", Node: "kith-1", Action: "optout", IdentityHMAC: "hm", IdentityHash: "00ff", Generation: 3, Everywhere: true, Also: 2,
		Partition: 9, Lane: 1, Offset: 1 << 40, Time: at, CopiesRetracted: 4, MembersRefreshed: 5, Position: "0:15,1:77", LogClearBy: at.Add(time.Hour),
		PublicKey: "pk", Signature: "sig",
	}
}

// The signature is over every field but itself: a receipt in which any other
// was changed does not verify.
func TestSignedBytesHaveEveryField(t *testing.T) {
	receipt := goldenReceipt()
	want := string(receipt.SignedBytes())
	kind := reflect.TypeFor[proto.Receipt]()
	for i := range kind.NumField() {
		changed := goldenReceipt()
		switch f := reflect.ValueOf(&changed).Elem().Field(i); v := f.Addr().Interface().(type) {
		case *string:
			*v += "x"
		case *proto.ClientName:
			*v += "x"
		case *bool:
			*v = !*v
		case *time.Time:
			*v = v.Add(time.Millisecond)
		default:
			if f.CanInt() {
				f.SetInt(f.Int() + 1)
			} else {
				f.SetUint(f.Uint() + 1)
			}
		}
		name := kind.Field(i).Name
		if got := string(changed.SignedBytes()); (got == want) != (name == "Signature") {
			t.Errorf("%s changed: the bytes to sign are %q", name, got)
		}
	}
	if lines := strings.Count(want, "\n"); lines != kind.NumField() {
		t.Errorf("%d lines to sign of %d fields: one for each but the signature, and a first", lines, kind.NumField())
	}
}

// What a field holds cannot pass for another field.
func TestSignedBytesAreOneLineEach(t *testing.T) {
	receipt := goldenReceipt()
	want := strings.Count(string(receipt.SignedBytes()), "\n")
	receipt.Node = "kith-1\naction=erase"
	if got := strings.Count(string(receipt.SignedBytes()), "\n"); got != want {
		t.Errorf("%d lines to sign with a line end in a name, want %d", got, want)
	}
}

// The zone of a time is not part of what is signed.
func TestSignedBytesInUTC(t *testing.T) {
	one, other := goldenReceipt(), goldenReceipt()
	other.Time, other.LogClearBy = one.Time.UTC(), one.LogClearBy.UTC()
	if string(one.SignedBytes()) != string(other.SignedBytes()) {
		t.Errorf("in another zone %q is to be signed", other.SignedBytes())
	}
}
