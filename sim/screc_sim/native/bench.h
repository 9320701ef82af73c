// What the test benches of models have in common: clock, reset, LOAD, checked streams.
// ports.h, written by the driver, names the model's class and its ports.
//
// A cycle: with the clock low the inputs of the cycle are set and everything settles; outputs are
// sampled, transfers are decided; the rising edge. Inputs depend on what was sampled in cycles
// before, never on outputs of the same cycle.
#pragma once

#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "job.h"
#include "ports.h"
#include "random.h"

constexpr uint64_t SETTLE_CYCLES = 100;  // after the end: nothing more may come
constexpr uint64_t RESET_CYCLES = 4;

template <class T> void set(T& port, uint64_t value) { port = static_cast<T>(value); }

template <class T> void put(T& port, const uint32_t* words) {
    if constexpr (std::is_integral_v<T>) {
        uint64_t value = words[0];
        if constexpr (sizeof(T) > 4) value |= static_cast<uint64_t>(words[1]) << 32;
        port = static_cast<T>(value);
    } else {
        std::memcpy(&port, words, sizeof(T));
    }
}

template <class T> void get(const T& port, uint32_t* words) {
    if constexpr (std::is_integral_v<T>) {
        words[0] = static_cast<uint32_t>(port);
        if constexpr (sizeof(T) > 4) words[1] = static_cast<uint32_t>(port >> 32);
    } else {
        std::memcpy(words, &port, sizeof(T));
    }
}

struct Checks {
    uint64_t violations = 0;
    std::string first;
    void fail(uint64_t cycle, const std::string& what) {
        if (violations++ == 0) first = "cycle " + std::to_string(cycle) + ": " + what;
    }
};

// Writes what a stream of the model gives to a file; valid and payload must hold until a transfer.
template <unsigned WORDS> class Sink {
public:
    Sink(const std::string& name, const std::string& path)
        : name_(name), file_(std::fopen(path.c_str(), "wb")) {
        if (!file_) throw std::runtime_error("cannot write " + path);
        std::setvbuf(file_, nullptr, _IOFBF, 1 << 20);
    }
    ~Sink() { std::fclose(file_); }
    Sink(const Sink&) = delete;

    template <class T>
    bool take(bool valid, bool ready, const T& payload, uint64_t cycle, Checks& checks) {
        if (!valid) {
            if (held_) checks.fail(cycle, name_ + ".valid was withdrawn");
            held_ = false;
            return false;
        }
        if (ready || !held_) {
            uint32_t words[WORDS] = {};
            get(payload, words);
            if (held_ && std::memcmp(words, words_, sizeof words) != 0)
                checks.fail(cycle, name_ + ".payload changed before it was taken");
            std::memcpy(words_, words, sizeof words);
        }
        held_ = !ready;
        if (held_) return false;
        if (std::fwrite(words_, sizeof words_, 1, file_) != 1)
            throw std::runtime_error("cannot write the " + name_);
        ++count_;
        last_cycle_ = cycle;
        return true;
    }
    uint64_t count() const { return count_; }
    uint64_t last_cycle() const { return last_cycle_; }

private:
    const std::string name_;
    std::FILE* file_;
    bool held_ = false;
    uint32_t words_[WORDS] = {};
    uint64_t count_ = 0, last_cycle_ = 0;
};

class Bench {
protected:
    explicit Bench(const Job& job)
        : job_(job), config_(read_file<uint32_t>(job.text("config"))), random_(job.number("seed")) {}

    void edge() {
        model_.PORT_clk = 1;
        model_.eval();
        model_.PORT_clk = 0;
        ++cycle_;
    }

    void reset() {
        model_.PORT_clk = 0;
        model_.PORT_rst = 1;
        for (uint64_t i = 0; i < RESET_CYCLES; ++i) {
            model_.eval();
            edge();
        }
        model_.PORT_rst = 0;
    }

    void load() {
        for (size_t i = 0; i < config_.size(); i += CONFIG_WORDS) {
            put(model_.PORT_config_payload, &config_[i]);
            model_.PORT_config_valid = 1;
            model_.eval();
            edge();
        }
        model_.PORT_config_valid = 0;
        for (int i = 0; i < 4; ++i) {
            model_.eval();
            edge();
        }
    }

    const Job& job_;
    const std::vector<uint32_t> config_;
    Random random_;
    Model model_;
    Checks checks_;
    uint64_t cycle_ = 0;
};

// What a bench's program does: run a job file and print a report.
template <class T> int bench_main(int argc, char** argv) {
    try {
        if (argc != 2) throw std::runtime_error(std::string("usage: ") + argv[0] + " JOB");
        const Job job(argv[1]);
        T bench(job);
        bench.run();
        bench.report();
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
    return 0;
}
