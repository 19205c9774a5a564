// Package containerd speaks to larder's content service as containerd's own clients do.
//
// LARDER_CONTENT is the address of a service that may be written to, on an empty store, and LARDER_CONTENT_READ_ONLY that of
// one on the same store that may not.
package containerd

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"testing"
	"time"

	api "github.com/containerd/containerd/api/services/content/v1"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/content/proxy"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const (
	messageBytesMax = 16 << 20
	// containerd's client asks a service that is away again and again.
	limit = time.Minute
)

func dial(t testing.TB, variable string) *grpc.ClientConn {
	t.Helper()
	address := os.Getenv(variable)
	if address == "" {
		t.Fatalf("%s is not set", variable)
	}
	connection, err := grpc.NewClient(address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(messageBytesMax), grpc.MaxCallSendMsgSize(messageBytesMax)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { connection.Close() })
	return connection
}

// world is a service, seen from a namespace that no other test uses.
type world struct {
	context.Context
	content.Store
	raw api.ContentClient
}

func open(t testing.TB, variable string) world {
	t.Helper()
	connection := dial(t, variable)
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	ctx = namespaces.WithNamespace(ctx, "test-"+rand.Text())
	return world{ctx, proxy.NewContentStore(connection), api.NewContentClient(connection)}
}

func writable(t testing.TB) world {
	return open(t, "LARDER_CONTENT")
}

// random returns bytes that nobody has stored yet.
func random(size int) ([]byte, digest.Digest) {
	bytes := make([]byte, size)
	rand.Read(bytes)
	return bytes, digest.FromBytes(bytes)
}

// store writes bytes and commits them.
func (w world) store(t testing.TB, bytes []byte, labels map[string]string) digest.Digest {
	t.Helper()
	dgst := digest.FromBytes(bytes)
	writer := w.writer(t, "store-"+dgst.Encoded(), ocispec.Descriptor{Digest: dgst, Size: int64(len(bytes))})
	if _, err := writer.Write(bytes); err != nil {
		t.Fatal(err)
	}
	if err := writer.Commit(w, int64(len(bytes)), dgst, content.WithLabels(labels)); err != nil {
		t.Fatal(err)
	}
	return dgst
}

func (w world) writer(t testing.TB, ref string, descriptor ocispec.Descriptor) content.Writer {
	t.Helper()
	writer, err := content.OpenWriter(w, w.Store, content.WithRef(ref), content.WithDescriptor(descriptor))
	if err != nil {
		t.Fatal(err)
	}
	return writer
}

// read returns what the service sends of a blob, and how it ends.
func (w world) read(request *api.ReadContentRequest) ([]byte, error) {
	stream, err := w.raw.Read(w, request)
	if err != nil {
		return nil, err
	}
	all := []byte{}
	for {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		if message.Offset != int64(len(all)) {
			return all, status.Errorf(codes.Internal, "offset %d behind %d bytes", message.Offset, len(all))
		}
		if len(message.Data) > 1<<20 {
			return all, status.Errorf(codes.Internal, "a message of %d bytes", len(message.Data))
		}
		all = append(all, message.Data...)
	}
}

func expect(t testing.TB, what string, err error, code codes.Code) {
	t.Helper()
	if found := status.Code(err); found != code {
		t.Errorf("%s: expected %v, received %v: %v", what, code, found, err)
	}
}

// nobody is a context without a namespace.
func nobody(ctx context.Context) context.Context {
	return metadata.NewOutgoingContext(ctx, metadata.MD{})
}
