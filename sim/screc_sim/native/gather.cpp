// Runs a gather engine: lookups from a file, an AXI4 memory that checks every read, partials to a
// file.
#include <algorithm>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench.h"
#include "memory_port.h"

namespace {

constexpr uint64_t BOUNDARY = 4096;  // AMBA AXI4 specification, A3.4.1
constexpr uint64_t ADMIT_AHEAD = 0x4000;  // sub-batches admitted beyond the one being offered

// The bytes of a file, repeated over the whole address space.
class Image {
public:
    explicit Image(const std::string& path) {
        const int file = open(path.c_str(), O_RDONLY);
        struct stat status {};
        if (file < 0 || fstat(file, &status) < 0) throw std::runtime_error("cannot read " + path);
        size_ = static_cast<uint64_t>(status.st_size);
        void* data = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file, 0);
        close(file);
        if (data == MAP_FAILED) throw std::runtime_error("cannot map " + path);
        data_ = static_cast<const uint8_t*>(data);
    }
    const uint8_t* at(uint64_t offset) const { return data_ + offset % size_; }

private:
    const uint8_t* data_ = nullptr;
    uint64_t size_ = 0;
};

std::string hex(uint64_t value) {
    char text[20];
    std::snprintf(text, sizeof text, "0x%" PRIx64, value);
    return text;
}

class Gather : Bench {
public:
    explicit Gather(const Job& job)
        : Bench(job), image_(job.text("image")),
          lookups_(read_file<uint32_t>(job.text("lookups"))),
          regions_(read_file<uint64_t>(job.text("regions"))), base_(job.number("base")),
          error_beat_(job.number("error_beat")), partials_("partials", job.text("partials")) {
        const unsigned ids = 1u << ID_BITS;
        if (job.text("memory") == "ddr4") {
            Ddr4Memory::Path path{job.number("cycle_ps"), job.number("ddr4.request_ps"),
                                  job.number("ddr4.response_ps"), job.number("ddr4.accepted")};
            memory_ = std::make_unique<Ddr4Memory>(ids, BEAT_BYTES, job.ddr4(), path);
        } else {
            memory_ = std::make_unique<FixedMemory>(ids, BEAT_BYTES, job.number("latency_low"),
                                                    job.number("latency_high"),
                                                    job.number("seed") + 1);
        }
    }

    void run() {
        set(model_.PORT_base, base_);
        reset();
        load();
        gather();
    }

    void report() const {
        std::printf(
            "{\"finished\": %s, \"lookups\": %zu, \"first_lookup\": %" PRIu64
            ", \"last_partial\": %" PRIu64 ", \"first_beat\": %" PRIu64 ", \"last_beat\": %" PRIu64
            ", \"row_beats\": %" PRIu64 ", \"bursts\": %" PRIu64 ", \"most_beats\": %" PRIu64
            ", \"partials\": %" PRIu64 ", \"cycles_run\": %" PRIu64 ", \"range_errors\": %" PRIu64
            ", \"beats_counted\": %" PRIu64 ", \"error_beats\": %" PRIu64
            ", \"violations\": %" PRIu64 ", \"violation\": \"%s\"}\n",
            finished_ ? "true" : "false", taken_, first_lookup_, partials_.last_cycle(), first_beat_,
            last_beat_, row_beats_, bursts_, most_beats_, partials_.count(), cycle_,
            static_cast<uint64_t>(model_.PORT_range_errors),
            static_cast<uint64_t>(model_.PORT_beats), error_beats_, checks_.violations,
            checks_.first.c_str());
    }

private:
    void gather() {
        const size_t count = lookups_.size() / LOOKUP_WORDS;
        const double lookup_gap = job_.real("lookup_gap"), partial_stall = job_.real("partial_stall");
        const double ar_stall = job_.real("ar_stall"), r_gap = job_.real("r_gap");
        const uint64_t patience = job_.number("patience");
        uint64_t progress = cycle_, idle = 0;
        while (idle < SETTLE_CYCLES) {
            // inputs of this cycle
            memory_->advance(cycle_);
            if (!offered_ && taken_ < count && !random_.chance(lookup_gap)) offer();
            model_.PORT_lookups_valid = offered_;
            model_.PORT_partials_ready = !random_.chance(partial_stall);
            model_.PORT_axi_arready = memory_->ready() && !random_.chance(ar_stall);
            if (!beat_offered_ && !random_.chance(r_gap)) offer_beat();
            model_.PORT_axi_rvalid = beat_offered_;
            model_.eval();
            // transfers of this cycle
            bool moved = false;
            if (offered_ && model_.PORT_lookups_ready) {
                if (taken_++ == 0) first_lookup_ = cycle_;
                offered_ = false;
                moved = true;
            }
            moved |= take_request();
            if (beat_offered_ && model_.PORT_axi_rready) {
                beat_offered_ = false;
                --owed_;
                if (row_beats_++ == 0) first_beat_ = cycle_;
                last_beat_ = cycle_;
                moved = true;
            }
            moved |= partials_.take(model_.PORT_partials_valid, model_.PORT_partials_ready,
                                    model_.PORT_partials_payload, cycle_, checks_);
            const bool quiet = taken_ == count && model_.PORT_idle && memory_->empty() &&
                               !beat_offered_ && !model_.PORT_axi_arvalid;
            if (model_.PORT_error) ++error_beats_;
            if (moved && idle) checks_.fail(cycle_, "something moved after idle was 1");
            idle = quiet && !moved ? idle + 1 : 0;
            if (moved) progress = cycle_;
            edge();
            if (cycle_ - progress > patience + idle) return;
        }
        finished_ = true;
    }

    void offer() {
        const uint32_t* words = &lookups_[taken_ * LOOKUP_WORDS];
        put(model_.PORT_lookups_payload, words);
        const uint64_t sequence =
            (words[SEQUENCE_LOW / 32] | static_cast<uint64_t>(words[SEQUENCE_LOW / 32 + 1]) << 32) >>
            SEQUENCE_LOW % 32;
        set(model_.PORT_admitted, (sequence + ADMIT_AHEAD) & 0xffff);
        offered_ = true;
    }

    void offer_beat() {
        unsigned chosen = 0, candidates = 0;
        uint64_t address = 0, candidate = 0;
        for (unsigned id = 0; id < 1u << ID_BITS; ++id) {
            if (!memory_->available(id, cycle_, candidate)) continue;
            if (++candidates == 1 || random_.chance(1.0 / candidates)) {
                chosen = id;
                address = candidate;
            }
        }
        if (!candidates) return;
        const bool last = memory_->give(chosen);
        std::memcpy(&model_.PORT_axi_rdata, image_.at(address - base_), BEAT_BYTES);
        set(model_.PORT_axi_rid, chosen);
        model_.PORT_axi_rlast = last;
        model_.PORT_axi_rresp = beats_offered_++ == error_beat_ ? 2 : 0;
        beat_offered_ = true;
    }

    bool take_request() {
        const bool valid = model_.PORT_axi_arvalid;
        const Request request{model_.PORT_axi_araddr, model_.PORT_axi_arlen, model_.PORT_axi_arid,
                              model_.PORT_axi_arsize, model_.PORT_axi_arburst};
        if (holding_ && (!valid || request != held_))
            checks_.fail(cycle_, "AR changed before it was accepted");
        held_ = request;
        holding_ = valid && !model_.PORT_axi_arready;
        if (!valid || holding_) return false;
        const uint64_t beats = request.length + 1, bytes = beats * BEAT_BYTES;
        const std::string where = hex(request.address) + " + " + std::to_string(bytes) + " bytes";
        if (request.burst != 1 || 1u << request.size != BEAT_BYTES)
            checks_.fail(cycle_, "burst of type " + std::to_string(request.burst) + " and size " +
                                     std::to_string(request.size));
        if (request.address % BEAT_BYTES) checks_.fail(cycle_, "unaligned address " + where);
        if (request.address / BOUNDARY != (request.address + bytes - 1) / BOUNDARY)
            checks_.fail(cycle_, where + " crosses 4 KiB");
        bool inside = false;
        for (size_t i = 0; i < regions_.size() && !inside; i += 2)
            inside = request.address >= base_ + regions_[i] &&
                     request.address + bytes <= base_ + regions_[i + 1];
        if (!inside) checks_.fail(cycle_, "read of " + where + " is outside of every region");
        memory_->take({request.address, beats}, static_cast<unsigned>(request.id), cycle_);
        owed_ += beats;
        most_beats_ = std::max(most_beats_, owed_);
        ++bursts_;
        return true;
    }

    struct Request {
        uint64_t address, length, id, size, burst;
        bool operator!=(const Request& other) const {
            return address != other.address || length != other.length || id != other.id ||
                   size != other.size || burst != other.burst;
        }
    };

    const Image image_;
    const std::vector<uint32_t> lookups_;
    const std::vector<uint64_t> regions_;
    const uint64_t base_, error_beat_;
    Sink<PARTIAL_WORDS> partials_;
    std::unique_ptr<Memory> memory_;
    Request held_{};
    size_t taken_ = 0;
    bool offered_ = false, beat_offered_ = false, holding_ = false, finished_ = false;
    uint64_t first_lookup_ = 0, first_beat_ = 0, last_beat_ = 0;
    uint64_t row_beats_ = 0, bursts_ = 0, owed_ = 0, most_beats_ = 0;
    uint64_t beats_offered_ = 0, error_beats_ = 0;
};

}  // namespace

int main(int argc, char** argv) { return bench_main<Gather>(argc, argv); }
