// A job: a text file of `key value` lines.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "ddr4.h"

class Job {
public:
    explicit Job(const std::string& path) {
        std::ifstream file(path);
        if (!file) throw std::runtime_error("cannot read " + path);
        std::string key, value;
        while (file >> key && std::getline(file >> std::ws, value)) values_[key] = value;
    }
    const std::string& text(const std::string& key) const {
        const auto found = values_.find(key);
        if (found == values_.end()) throw std::runtime_error("the job has no " + key);
        return found->second;
    }
    uint64_t number(const std::string& key) const { return std::stoull(text(key), nullptr, 0); }
    double real(const std::string& key) const { return std::stod(text(key)); }

    Ddr4Timing ddr4() const {
        Ddr4Timing t;
        t.tck_ps = number("ddr4.tck_ps");
        t.trcd = number("ddr4.trcd");
        t.trp = number("ddr4.trp");
        t.tcl = number("ddr4.tcl");
        t.tras = number("ddr4.tras");
        t.trc = number("ddr4.trc");
        t.trtp = number("ddr4.trtp");
        t.trrd_s = number("ddr4.trrd_s");
        t.trrd_l = number("ddr4.trrd_l");
        t.tfaw = number("ddr4.tfaw");
        t.tccd_s = number("ddr4.tccd_s");
        t.tccd_l = number("ddr4.tccd_l");
        t.trefi = number("ddr4.trefi");
        t.trfc = number("ddr4.trfc");
        t.burst = number("ddr4.burst");
        t.bank_groups = number("ddr4.bank_groups");
        t.banks = number("ddr4.banks");
        t.page_bytes = number("ddr4.page_bytes");
        t.bank_lowest = number("ddr4.bank_lowest");
        t.queue = number("ddr4.queue");
        t.age = number("ddr4.age");
        return t;
    }

private:
    std::map<std::string, std::string> values_;
};

template <class T> std::vector<T> read_file(const std::string& path) {
    std::ifstream file(path, std::ios::binary | std::ios::ate);
    if (!file) throw std::runtime_error("cannot read " + path);
    std::vector<T> values(static_cast<size_t>(file.tellg()) / sizeof(T));
    file.seekg(0);
    file.read(reinterpret_cast<char*>(values.data()),
              static_cast<std::streamsize>(values.size() * sizeof(T)));
    return values;
}
