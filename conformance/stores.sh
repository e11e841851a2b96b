#!/usr/bin/env bash
# The object engine's contract on other people's object stores, each a process on this machine: MinIO (S3), Azurite (Azure). Takes a quarter
# of an hour the first time, for building MinIO; needs go and npm. For Google Cloud Storage there is none with the XML uploads and
# listings that the client library asks for (fake-gcs-server 1.56, storage-testbench 0.45): the test itself has a server that speaks its protocol.
#
#     conformance/stores.sh [minio] [azurite]
set -euo pipefail
cd "$(dirname "$0")/.."
stores=("$@")
[ ${#stores[@]} -gt 0 ] || stores=(minio azurite)
target=${CARGO_TARGET_DIR:-target}
home=$(mkdir -p "$target/stores" && cd "$target/stores" && pwd)
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT

# Waits for a port, for at most half a minute.
listens() {
    for _ in $(seq 300); do
        if (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; then return; fi
        sleep 0.1
    done
    echo "nothing listens on port $1" >&2
    return 1
}

contract() { # store, environment
    local store=$1
    shift
    echo "== $store"
    env "$@" MARTLET_TEST_STORE="$store" cargo test --workspace --locked --test s3 -- --exact the_contract_is_kept a_second_owner_takes_over
}

for name in "${stores[@]}"; do
    case $name in
    minio)
        if [ ! -x "$home/minio" ]; then
            # In its own folder, where what its go.mod replaces counts.
            folder=$(GOFLAGS=-modcacherw go mod download -json github.com/minio/minio@latest | sed -n 's/^\t"Dir": "\(.*\)",\{0,1\}$/\1/p')
            echo "building MinIO from $folder"
            (cd "$folder" && CGO_ENABLED=0 go build -o "$home/minio" .)
        fi
        rm -rf "$home/minio-data" && mkdir -p "$home/minio-data/orders"
        MINIO_ROOT_USER=martlet-tests MINIO_ROOT_PASSWORD=martlet-tests \
            "$home/minio" server "$home/minio-data" --address 127.0.0.1:19100 >"$home/minio.log" 2>&1 &
        listens 19100
        contract s3://orders/tests AWS_ENDPOINT=http://127.0.0.1:19100 AWS_ALLOW_HTTP=true AWS_REGION=us-east-1 \
            AWS_ACCESS_KEY_ID=martlet-tests AWS_SECRET_ACCESS_KEY=martlet-tests
        ;;
    azurite)
        [ -d "$home/node_modules/azurite" ] || npm install --silent --prefix "$home" azurite @azure/storage-blob
        "$home/node_modules/.bin/azurite-blob" --inMemoryPersistence --blobPort 19200 --skipApiVersionCheck >"$home/azurite.log" 2>&1 &
        listens 19200
        # The account that every Azurite has; it is no secret.
        key='Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=='
        (cd "$home" && node -e '
            const { BlobServiceClient, StorageSharedKeyCredential } = require("@azure/storage-blob");
            const account = "devstoreaccount1";
            const service = new BlobServiceClient("http://127.0.0.1:19200/" + account, new StorageSharedKeyCredential(account, process.argv[1]));
            service.getContainerClient("orders").createIfNotExists().catch((error) => { console.error(error.message); process.exit(1); });
        ' "$key")
        contract az://orders/tests AZURE_STORAGE_USE_EMULATOR=true AZURITE_BLOB_STORAGE_URL=http://127.0.0.1:19200 \
            AZURE_STORAGE_ACCOUNT_NAME=devstoreaccount1 AZURE_STORAGE_ACCOUNT_KEY="$key"
        ;;
    *)
        echo "minio or azurite, not $name" >&2
        exit 2
        ;;
    esac
done
