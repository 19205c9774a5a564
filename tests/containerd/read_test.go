package containerd

import (
	"errors"
	"io"
	"testing"

	api "github.com/containerd/containerd/api/services/content/v1"
)

// BenchmarkRead reads 256 MiB that the service has read before.
func BenchmarkRead(b *testing.B) {
	const size = 256 << 20
	w := writable(b)
	blob, _ := random(size)
	dgst := w.store(b, blob, nil)
	b.SetBytes(size)
	for b.Loop() {
		stream, err := w.raw.Read(w, &api.ReadContentRequest{Digest: dgst.String()})
		if err != nil {
			b.Fatal(err)
		}
		read := 0
		for {
			message, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				b.Fatal(err)
			}
			read += len(message.Data)
		}
		if read != size {
			b.Fatalf("%d bytes", read)
		}
	}
}
