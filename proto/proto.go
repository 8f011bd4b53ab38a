// Package proto is the vocabulary that every room shares: typed names with
// Parse and String, the versioned log entry and its packed commands, the
// control records, the public messages, and the one error type.
//
// It decides nothing and imports nothing of kith. Bytes that outlive the
// process are laid out here:
//
//   - Entry and Control: protobuf (kith.proto), version first;
//   - commands inside an Entry: see command.go;
//   - an event inside a command: see event.go.
//
// Each has golden files under testdata and a fuzz target.
package proto

//go:generate make -C .. proto
