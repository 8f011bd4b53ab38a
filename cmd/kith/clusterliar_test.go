package main

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	crand "crypto/rand"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"kith/engine"
)

// obituary is gossip that says a member died, sealed with the cluster's key as
// memberlist seals it: a label's header; then a version, a nonce and AES-GCM over
// the kind 5 and {Incarnation, Node, From} in MessagePack, with the label as
// additional data.
func obituary(t *testing.T, key []byte, label, member string, incarnation uint32) []byte {
	t.Helper()
	text := func(b []byte, s string) []byte {
		return append(append(b, 0xda, byte(len(s)>>8), byte(len(s))), s...)
	}
	b := text([]byte{5, 0x83}, "Incarnation")
	b = binary.BigEndian.AppendUint32(append(b, 0xce), incarnation)
	b = text(text(b, "Node"), member)
	b = text(text(b, "From"), "liar")
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	nonce := make([]byte, sealer.NonceSize())
	_, _ = crand.Read(nonce)
	packet := append([]byte{244, byte(len(label))}, label...)
	packet = append(append(packet, 1), nonce...)
	return sealer.Seal(packet, nonce, b, []byte(label))
}

// TestClusterToldThatAllDied: somebody who has the key of gossip tells every node
// that all nodes died, over and over, with new packets and with the same ones
// again. Who answers for what may be unclear meanwhile; nothing that was said is
// wrong, and nothing is lost.
func TestClusterToldThatAllDied(t *testing.T) {
	rounds := faultRounds(t, 1)
	places := loopbackPlaces(t)
	x := startFaultTrio(t, setting{places: places, lanes: 2})
	key := engine.CommonKey([]byte(strings.Repeat("\x5a", 16)), "gossip")
	lies, missed := 0, 0
	x.suffer(t, rounds, func(int, *rand.Rand) fault {
		ctx, cancel := context.WithCancel(t.Context())
		over := make(chan struct{})
		return fault{
			what: "everybody was told that all nodes died",
			begin: func(t *testing.T) {
				var members []string
				for _, n := range x.nodes[0].status(t).Nodes {
					members = append(members, fmt.Sprintf("%s/%d", n.Name, n.Started.UnixMilli()))
				}
				go func() {
					defer close(over)
					c, err := net.ListenPacket("udp", "127.0.0.1:0")
					if err != nil {
						t.Error(err)
						return
					}
					defer c.Close()
					var last [][]byte
					for incarnation := uint32(1_000); ctx.Err() == nil; incarnation += 10 {
						packets := last
						if incarnation%20 == 0 {
							packets = nil
							for _, m := range members {
								packets = append(packets, obituary(t, key, "kith", m, incarnation))
							}
						}
						for _, p := range places {
							to, err := net.ResolveUDPAddr("udp", p.cluster)
							if err != nil {
								t.Error(err)
								return
							}
							for _, packet := range packets {
								_, _ = c.WriteTo(packet, to)
								lies++
							}
						}
						last = packets
						hold(ctx, 50*time.Millisecond)
					}
				}()
				for range 40 { // what the first node believes
					if s := x.nodes[0].status(t); len(s.Nodes) < 3 {
						missed++
					}
				}
			},
			lasts: 5 * time.Second,
			end: func(*testing.T) {
				cancel()
				<-over
			},
		}
	})
	t.Logf("%d packets; of 40 times that it was asked the first node missed somebody %d times", lies, missed)
	if missed == 0 {
		t.Error("the packets were not believed for a moment: they are not what this test means")
	}
}
